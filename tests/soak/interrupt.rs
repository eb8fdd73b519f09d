//! Ctrl-C at random moments, and what is left on disk.

use crate::common::root;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

const PAIR: &str = "--model models/demo/target --draft models/demo/draft";
const PROBLEMS: &str = "models/demo/problems.jsonl --task word-problems";

/// What a run must last for the commands that take tens of seconds.
const LONG: Duration = Duration::from_secs(60);

/// Commands that write files to `out`; those that take long are the last.
fn commands(mined: &Path, ids: &Path, out: &Path) -> [Vec<String>; 6] {
    let (out, mined, ids) = (out.display(), mined.display(), ids.display());
    [
        format!(
            "logits --model models/demo/target --ids {ids} --tap 1 --out {out}/logits.safetensors"
        ),
        format!("eval {PAIR} --data {PROBLEMS} --limit 6 --rules chain,margin=0.9 --out {out}"),
        format!("bench --rounds 1 --limit 2 --max-tokens 16 --rules chain --out {out}"),
        format!("judge mine {PAIR} --prompts {PROBLEMS} --checker none --limit 8 --out {out}"),
        format!("judge train {mined} --tau quantile=0.5 --out {out}/judge.safetensors"),
        format!(
            "experiment two-layer --seeds 1 --prompts 40 --problems 2 --dir {out}/kept --out {out}/report"
        ),
    ]
    .map(|text| words(&text))
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
            whole
                && bytes
                    .split(|&b| b == b'\n')
                    .all(|line| line.is_empty() || json(line))
        }
        "md" => {
            let text = String::from_utf8_lossy(&bytes);
            let [begun, ended] = [" begins -->\n", " ends -->\n"].map(|m| text.matches(m).count());
            begun == 1 && ended == 1 && text.ends_with('\n')
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
    let [mined, ids, out] = ["mined", "ids.json", "out"].map(|name| scratch.path().join(name));
    // something to train on, and so many rows that writing them takes a while
    let text = format!(
        "judge mine {PAIR} --prompts {PROBLEMS} --checker none --limit 24 --out {}",
        mined.display()
    );
    assert!(gavel(&words(&text)).status().unwrap().success(), "{text}");
    let tokens: Vec<u32> = (0..500).map(|i| 3 + i * 7 % 500).collect();
    std::fs::write(&ids, format!("{tokens:?}")).unwrap();
    let commands = commands(&mined, &ids, &out);
    let commands = &commands[..if time < LONG { 5 } else { 6 }];

    let mut random = fastrand::Rng::with_seed(2);
    let began = Instant::now();
    let (mut runs, mut interrupted, mut left) = (0, 0, 0);
    // what each takes where nobody interrupts it
    let mut whole: Vec<Duration> = Vec::new();
    while runs < 2 * commands.len() || began.elapsed() < time {
        std::fs::create_dir(&out).unwrap();
        let at = runs % commands.len();
        let started = Instant::now();
        let mut child = gavel(&commands[at]).spawn().unwrap();
        let moment = whole.get(at).map(|span| {
            // half of them where files are written
            let from = if random.bool() { 0.0 } else { 0.75 };
            span.mul_f64(from + random.f64() * (1.1 - from))
        });
        std::thread::sleep(moment.unwrap_or_default());
        let under_way = child.try_wait().unwrap().is_none();
        if moment.is_some() && under_way {
            let id = child.id().to_string();
            let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
            assert!(sent.success());
            interrupted += 1;
        }
        let status = child.wait().unwrap();
        let files = files(&out);
        let faults: Vec<String> = files.iter().filter_map(|f| fault(f)).collect();
        assert!(
            faults.is_empty(),
            "{:?} interrupted after {moment:?}, {status}: {faults:?}",
            commands[at]
        );
        if moment.is_none() {
            assert!(status.success() && !files.is_empty(), "{:?}", commands[at]);
            whole.push(started.elapsed());
        }
        left += files.len();
        std::fs::remove_dir_all(&out).unwrap();
        runs += 1;
    }
    println!(
        "{:.0} s: {runs} commands, {interrupted} of them interrupted; {left} files left, every one whole",
        began.elapsed().as_secs_f64()
    );
}
