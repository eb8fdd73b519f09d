//! Models by name: the Hub and its local cache.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::checkpoint::parse_index;
use super::error::{ModelError, read_text};

/// What is fetched beside the weights where a model has it.
const FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

pub(super) fn locate(name: &str) -> Result<PathBuf, ModelError> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if !is_hub_id(name) {
        return Err(ModelError::Name {
            name: name.to_owned(),
        });
    }
    Hub::from_variables(|name| std::env::var(name).ok().filter(|v| !v.is_empty())).model(name)
}

/// `org/name`, each of letters, digits, `-`, `_` and `.`.
fn is_hub_id(name: &str) -> bool {
    let plain = |part: &str| {
        part.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    };
    name.split_once('/')
        .is_some_and(|(org, name)| plain(org) && plain(name))
}

/// Where models come from, and where they are kept.
struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    /// The settings that Hugging Face's own tools read from the environment.
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Hub {
        let home = || match (variable("HF_HOME"), variable("XDG_CACHE_HOME")) {
            (Some(home), _) => PathBuf::from(home),
            (None, Some(cache)) => Path::new(&cache).join("huggingface"),
            (None, None) => std::env::home_dir()
                .unwrap_or_default()
                .join(".cache")
                .join("huggingface"),
        };
        Hub {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or("https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home().join("hub"), PathBuf::from),
            token: variable("HF_TOKEN").or_else(|| {
                let token = std::fs::read_to_string(home().join("token")).ok()?;
                Some(token.trim().to_owned()).filter(|t| !t.is_empty())
            }),
            offline: variable("HF_HUB_OFFLINE")
                .is_some_and(|v| matches!(&*v.to_ascii_uppercase(), "1" | "ON" | "YES" | "TRUE")),
        }
    }

    fn model(&self, id: &str) -> Result<PathBuf, ModelError> {
        let cached = self.snapshot(id).filter(|dir| has_weights(dir));
        match cached {
            Some(dir) if self.offline || self.nothing_more_to_fetch(id, &dir) => Ok(dir),
            // What is missing may not matter; without a Hub, what is there must do.
            Some(dir) => Ok(self.fetch(id).unwrap_or(dir)),
            None if self.offline => Err(self.error(
                id,
                "not in the cache, and HF_HUB_OFFLINE forbids to fetch it".to_owned(),
            )),
            None => self.fetch(id),
        }
    }

    fn error(&self, id: &str, why: String) -> ModelError {
        ModelError::Hub {
            name: id.to_owned(),
            endpoint: self.endpoint.clone(),
            cache: self.cache.clone(),
            why,
        }
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.cache.join(Repo::model(id.to_owned()).folder_name())
    }

    /// The snapshot that the cache has of the main branch.
    fn snapshot(&self, id: &str) -> Option<PathBuf> {
        let folder = self.folder(id);
        let commit = std::fs::read_to_string(folder.join("refs").join("main")).ok()?;
        let commit = Some(commit.trim()).filter(|c| is_commit(c))?;
        Some(folder.join("snapshots").join(commit)).filter(|dir| dir.is_dir())
    }

    /// Where Hugging Face's tools note that a snapshot does not have a file.
    fn absence_note(&self, id: &str, snapshot: &Path, file: &str) -> Option<PathBuf> {
        let commit = snapshot.file_name()?;
        Some(self.folder(id).join(".no_exist").join(commit).join(file))
    }

    fn nothing_more_to_fetch(&self, id: &str, snapshot: &Path) -> bool {
        FILES.iter().all(|file| {
            let noted = || {
                self.absence_note(id, snapshot, file)
                    .is_some_and(|note| note.exists())
            };
            snapshot.join(file).exists() || noted()
        })
    }

    fn fetch(&self, id: &str) -> Result<PathBuf, ModelError> {
        let failed = |what: &str, e: ApiError| self.error(id, format!("{what}: {}", explain(&e)));
        let cache = Cache::new(self.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(std::io::stderr().is_terminal())
            .with_retries(2)
            .build()
            .map_err(|e| failed("no connection", e))?;
        let main = Repo::new(id.to_owned(), RepoType::Model);
        let info = api
            .repo(main.clone())
            .info()
            .map_err(|e| failed("no such model to be had, and no directory of this name", e))?;
        if !is_commit(&info.sha) {
            return Err(self.error(id, "the Hub's answer names no commit".to_owned()));
        }
        // By commit, so that all files are of one version even if the branch moves meanwhile.
        let repo = api.repo(Repo::with_revision(
            id.to_owned(),
            RepoType::Model,
            info.sha.clone(),
        ));
        let snapshot = self.folder(id).join("snapshots").join(&info.sha);
        let offered = |file: &str| info.siblings.iter().any(|s| s.rfilename == file);
        let get = |file: &str| self.get(id, &repo, &snapshot, file);

        for file in FILES {
            if offered(file) {
                get(file)?;
            } else if let Some(note) = self.absence_note(id, &snapshot, file) {
                // Only a note for next time: not being able to leave it is no error.
                let _ = note.parent().map(std::fs::create_dir_all);
                let _ = std::fs::File::create(note);
            }
        }
        if offered(WEIGHTS) {
            get(WEIGHTS)?;
        } else if offered(INDEX) {
            get(INDEX)?;
            let index = snapshot.join(INDEX);
            let mut shards: Vec<String> = parse_index(&read_text(&index)?, &index)?
                .into_values()
                .collect();
            shards.sort();
            shards.dedup();
            for shard in shards {
                get(&shard)?;
            }
        } else {
            return Err(self.error(
                id,
                format!("found neither {WEIGHTS} nor {INDEX} among its files"),
            ));
        }
        cache
            .repo(main)
            .create_ref(&info.sha)
            .map_err(|source| ModelError::read(&self.folder(id).join("refs"), source))?;
        Ok(snapshot)
    }

    fn get(&self, id: &str, repo: &ApiRepo, snapshot: &Path, file: &str) -> Result<(), ModelError> {
        let path = snapshot.join(file);
        if path.exists() {
            return Ok(());
        }
        repo.download(file)
            .map_err(|e| self.error(id, format!("{file}: {}", explain(&e))))?;
        match path.exists() {
            true => Ok(()),
            false => Err(self.error(id, format!("{file}: the Hub answered with another commit"))),
        }
    }
}

fn is_commit(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether a snapshot is a model: configuration, and weights to the last shard.
fn has_weights(dir: &Path) -> bool {
    let index = dir.join(INDEX);
    let sharded = || {
        let text = read_text(&index).ok()?;
        let shards = parse_index(&text, &index).ok()?;
        Some(!shards.is_empty() && shards.values().all(|shard| dir.join(shard).exists()))
    };
    dir.join("config.json").exists() && (dir.join(WEIGHTS).exists() || sharded().unwrap_or(false))
}

fn explain(error: &ApiError) -> String {
    let text = error.to_string();
    match text.contains("401") || text.contains("403") || text.contains("404") {
        true => format!("{text} (private and gated models need HF_TOKEN)"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::Model;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name)
    }

    /// A Hub on this machine with one model, `org/tiny`; counts what it is asked for.
    struct FakeHub {
        endpoint: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl FakeHub {
        fn serve(files: BTreeMap<String, Vec<u8>>, token: Option<&str>) -> FakeHub {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::<Mutex<Vec<String>>>::default();
            let (log, token) = (asked.clone(), token.map(str::to_owned));
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let _ = answer(stream, &files, token.as_deref(), &log);
                }
            });
            FakeHub { endpoint, asked }
        }

        fn with_fixture(name: &str) -> FakeHub {
            let files = std::fs::read_dir(fixture(name)).unwrap().map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read(path).unwrap())
            });
            FakeHub::serve(files.collect(), None)
        }

        fn asked(&self) -> usize {
            self.asked.lock().unwrap().len()
        }
    }

    fn answer(
        mut stream: TcpStream,
        files: &BTreeMap<String, Vec<u8>>,
        token: Option<&str>,
        log: &Mutex<Vec<String>>,
    ) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut range, mut authorised) = (None, token.is_none());
        for line in lines {
            let line = line?.to_ascii_lowercase();
            if let Some(bytes) = line.strip_prefix("range: bytes=") {
                let (from, to) = bytes.split_once('-').unwrap_or((bytes, ""));
                range = Some((from.parse().unwrap_or(0), to.parse::<usize>().ok()));
            }
            authorised |= token.is_some_and(|t| line == format!("authorization: bearer {t}"));
            if line.is_empty() {
                break;
            }
        }
        log.lock().unwrap().push(path.clone());
        let resolve = format!("/org/tiny/resolve/{COMMIT}/");
        let mut headers = format!("connection: close\r\nx-repo-commit: {COMMIT}\r\n");
        let (status, body) = if !authorised {
            ("401 Unauthorized", Vec::new())
        } else if path == "/api/models/org/tiny/revision/main" {
            let siblings: Vec<_> = files
                .keys()
                .map(|f| serde_json::json!({ "rfilename": f }))
                .collect();
            let info = serde_json::json!({"sha": COMMIT, "siblings": siblings});
            ("200 OK", info.to_string().into_bytes())
        } else if let Some((name, body)) = path
            .strip_prefix(&resolve)
            .and_then(|f| files.get_key_value(f))
        {
            let (from, to) = range.unwrap_or((0, None));
            let end = to.map_or(body.len(), |to| (to + 1).min(body.len()));
            headers += &format!("etag: \"tag-{name}\"\r\n");
            headers += &format!("content-range: bytes {from}-{end}/{}\r\n", body.len());
            ("206 Partial Content", body[from.min(end)..end].to_vec())
        } else {
            ("404 Not Found", Vec::new())
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(&body)
    }

    fn hub(endpoint: &str, cache: &Path) -> Hub {
        Hub {
            endpoint: endpoint.to_owned(),
            cache: cache.to_owned(),
            token: None,
            offline: false,
        }
    }

    #[test]
    fn a_model_is_fetched_once_and_then_found_in_the_cache() {
        for name in ["llama-mha", "qwen3-qknorm"] {
            let cache = tempfile::tempdir().unwrap();
            let server = FakeHub::with_fixture(name);
            let online = hub(&server.endpoint, cache.path());
            let dir = online.model("org/tiny").unwrap();
            let fetched = Model::open(&dir).unwrap();
            let original = Model::open(&fixture(name)).unwrap();
            assert_eq!(fetched.fingerprint(), original.fingerprint(), "{name}");
            assert!(
                !dir.join("expected.safetensors").exists(),
                "only what is needed"
            );
            assert!(dir.starts_with(cache.path().join("models--org--tiny/snapshots")));

            let asked = server.asked();
            assert_eq!(online.model("org/tiny").unwrap(), dir, "{name}");
            assert_eq!(server.asked(), asked, "{name}: nothing is left to ask for");
            let offline = Hub {
                offline: true,
                ..hub("http://127.0.0.1:9", cache.path())
            };
            assert_eq!(offline.model("org/tiny").unwrap(), dir, "{name}");
        }
    }

    #[test]
    fn a_cache_that_another_tool_filled_serves_without_a_hub() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--tiny");
        let snapshot = folder.join("snapshots").join(COMMIT);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs/main"), COMMIT).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture("llama-mha").join(file), snapshot.join(file)).unwrap();
        }
        // the tokenizer may exist on the Hub, which does not answer
        let unreachable = hub("http://127.0.0.1:9", cache.path());
        assert_eq!(unreachable.model("org/tiny").unwrap(), snapshot);

        std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
        let message = unreachable.model("org/tiny").unwrap_err().to_string();
        assert!(
            message.starts_with("model 'org/tiny' at http://127.0.0.1:9 (cache "),
            "{message}"
        );
        let offline = Hub {
            offline: true,
            ..unreachable
        };
        let message = offline.model("org/tiny").unwrap_err().to_string();
        assert!(
            message.contains("not in the cache, and HF_HUB_OFFLINE forbids"),
            "{message}"
        );
    }

    #[test]
    fn a_cache_that_lacks_shards_is_completed() {
        let cache = tempfile::tempdir().unwrap();
        let server = FakeHub::with_fixture("qwen3-qknorm");
        let online = hub(&server.endpoint, cache.path());
        let dir = online.model("org/tiny").unwrap();
        std::fs::remove_file(dir.join("model-00002-of-00005.safetensors")).unwrap();
        assert_eq!(online.model("org/tiny").unwrap(), dir);
        Model::open(&dir).unwrap();
    }

    #[test]
    fn what_the_hub_refuses_is_explained() {
        let cache = tempfile::tempdir().unwrap();
        let server = FakeHub::with_fixture("llama-mha");
        let message = |hub: &Hub, id| hub.model(id).unwrap_err().to_string();
        let open = hub(&server.endpoint, cache.path());
        let text = message(&open, "org/none");
        assert!(
            text.contains("no such model to be had") && text.contains("404"),
            "{text}"
        );

        for endpoint in [
            "nonsense",
            "http://",
            "ftp://127.0.0.1",
            "http://127.0.0.1:9",
        ] {
            let text = message(&hub(endpoint, cache.path()), "org/tiny");
            assert!(text.contains(&format!("at {endpoint} (cache")), "{text}");
        }

        let files = BTreeMap::from([("config.json".to_owned(), b"{}".to_vec())]);
        let server = FakeHub::serve(files, Some("secret"));
        let mut gated = hub(&server.endpoint, cache.path());
        let text = message(&gated, "org/tiny");
        assert!(text.contains("401") && text.contains("HF_TOKEN"), "{text}");
        gated.token = Some("secret".to_owned());
        let text = message(&gated, "org/tiny");
        assert!(
            text.contains("found neither model.safetensors nor"),
            "{text}"
        );
    }

    #[test]
    fn a_hostile_index_does_not_leave_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let index = br#"{"weight_map": {"model.norm.weight": "../../../../escaped"}}"#;
        let files = BTreeMap::from([
            ("config.json".to_owned(), b"{}".to_vec()),
            (INDEX.to_owned(), index.to_vec()),
        ]);
        let server = FakeHub::serve(files, None);
        let error = hub(&server.endpoint, cache.path())
            .model("org/tiny")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the name of a file beside the index"),
            "{error}"
        );
    }

    #[test]
    fn settings_come_from_the_environment() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        let home = home.path().to_str().unwrap();
        let with = |pairs: &[(&str, &str)]| {
            let pairs: BTreeMap<String, String> = pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            Hub::from_variables(|name| pairs.get(name).cloned())
        };
        let hub = with(&[("HF_HOME", home), ("HF_ENDPOINT", "http://mirror/")]);
        assert_eq!(hub.cache, Path::new(home).join("hub"));
        assert_eq!(hub.endpoint, "http://mirror");
        assert_eq!(hub.token.as_deref(), Some("from-file"));
        assert!(!hub.offline);
        let hub = with(&[
            ("HF_HOME", home),
            ("HF_HUB_CACHE", "/elsewhere"),
            ("HF_TOKEN", "mine"),
            ("HF_HUB_OFFLINE", "true"),
        ]);
        assert_eq!(hub.cache, Path::new("/elsewhere"));
        assert_eq!(hub.token.as_deref(), Some("mine"));
        assert!(hub.offline);
        let hub = with(&[("XDG_CACHE_HOME", "/xdg")]);
        assert_eq!(hub.cache, Path::new("/xdg/huggingface/hub"));
        assert_eq!(hub.endpoint, "https://huggingface.co");
    }
}
