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
