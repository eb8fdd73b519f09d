//! Ctrl-C at random moments, and what is left on disk.

use crate::common::root;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command that writes files, and the latest moment at which it is interrupted.
struct Case {
    name: &'static str,
    arguments: Vec<String>,
    most: Duration,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The commands, writing to `out`.
fn cases(mined: &Path, ids: &Path, out: &Path) -> Vec<Case> {
    let pair = "--model models/demo/target --draft models/demo/draft";
    let problems = "models/demo/problems.jsonl --task word-problems";
    let (out, mined, ids) = (out.display(), mined.display(), ids.display());
    let case = |name, text: String, most| Case {
        name,
        arguments: words(&text),
        most: Duration::from_millis(most),
    };
    vec![
        case(
            "logits",
            format!("logits --model models/demo/target --ids {ids} --tap 1 --out {out}/logits.safetensors"),
            500,
        ),
        case(
            "eval",
            format!("eval {pair} --data {problems} --limit 12 --rules chain,margin=0.9 --out {out}"),
            1500,
        ),
        case("bench", format!("bench --rounds 3 --limit 2 --max-tokens 16 --rules chain --out {out}"), 1500),
        case("judge mine", format!("judge mine {pair} --prompts {problems} --limit 12 --out {out}"), 1500),
        case("judge train", format!("judge train {mined} --out {out}/judge.safetensors"), 1200),
    ]
}

fn gavel(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command
        .args(arguments)
        .current_dir(root())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Files of a folder, those of folders in it too.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// What is wrong with a file that a command left, if anything.
fn fault(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
    let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).is_ok();
    let whole = match kind {
        // held while a run lasts; it has no content
        "lock" => bytes.is_empty(),
        "json" => json(&bytes),
        "jsonl" => {
            let whole = bytes.is_empty() || bytes.ends_with(b"\n");
            whole && bytes.split(|&b| b == b'\n').all(|line| line.is_empty() || json(line))
        }
        "svg" => bytes.trim_ascii_end().ends_with(b"</svg>"),
        "safetensors" => safetensors::SafeTensors::deserialize(&bytes).is_ok(),
        _ => return Some(format!("{name}: a file that no command promises")),
    };
    (!whole).then(|| format!("{name}: {} bytes, not whole", bytes.len()))
}

/// Interrupts one command after the other, each at a moment of its own.
pub fn soak(time: Duration) {
    let scratch = tempfile::tempdir().unwrap();
    let (mined, ids) = (scratch.path().join("mined"), scratch.path().join("ids.json"));
    // something to train on, and enough rows that writing them takes a while
    let text = format!(
        "judge mine --model models/demo/target --draft models/demo/draft --prompts models/demo/problems.jsonl \
         --task word-problems --limit 60 --out {}",
        mined.display()
    );
    let made = gavel(&words(&text)).status().unwrap();
    assert!(made.success(), "{text}");
    let tokens: Vec<u32> = (0..500).map(|i| 3 + i * 7 % 500).collect();
    std::fs::write(&ids, format!("{tokens:?}")).unwrap();

    let mut random = fastrand::Rng::with_seed(2);
    let until = Instant::now() + time;
    let (mut runs, mut interrupted, mut left) = (0, 0, 0);
    while runs < 10 || Instant::now() < until {
        let out = scratch.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let cases = cases(&mined, &ids, &out);
        let case = &cases[runs % cases.len()];
        let mut child = gavel(&case.arguments).spawn().unwrap();
        let moment = Duration::from_micros(random.u64(..=case.most.as_micros() as u64));
        std::thread::sleep(moment);
        let status = match child.try_wait().unwrap() {
            Some(status) => status,
            None => {
                let id = child.id().to_string();
                let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
                assert!(sent.success());
                interrupted += 1;
                child.wait().unwrap()
            }
        };
        let faults: Vec<String> = files(&out).iter().filter_map(|f| fault(f)).collect();
        assert!(
            faults.is_empty(),
            "{} interrupted after {moment:?}, {status}: {faults:?}",
            case.name
        );
        left += files(&out).len();
        std::fs::remove_dir_all(&out).unwrap();
        runs += 1;
    }
    println!("{runs} commands, {interrupted} of them interrupted: {left} files left, every one whole");
}
