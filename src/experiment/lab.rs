//! What experiments work with: the demo pair, its problems, mined samples, trained judges.

use super::ExperimentError;
use crate::device::{Device, Setup, cpu::Cpu};
use crate::draft::Drafter;
use crate::judge::samples::{self, Method, Prompt, Run, Shard};
use crate::judge::train::{self, Options, Trained};
use crate::judge::{Features, Judge, Layout, Tap};
use crate::mine::{self, Item, Job, Miner, Reader};
use crate::model::{ChatTemplate, Model, Tokenizer};
use crate::output::write_atomically;
use crate::task::{Problem, Task};
use crate::verify::Guard;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// SelfJudge's suffix lengths that are mined.
pub const SUFFIXES: [usize; 5] = [0, 5, 10, 20, 50];
/// Seed of a mining file is this and the experiment's seed.
const MINING_SEED: u64 = 1000;
const TEST_SEED: u64 = 9001;
/// Most tokens of a mined answer.
const MINED_TOKENS: usize = 256;

/// Where an experiment works, and how much of everything it takes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What was mined, trained and decoded is kept here.
    pub dir: PathBuf,
    /// The report goes here.
    pub out: PathBuf,
    /// The folder with `target`, `draft` and the generator of problems.
    pub models: PathBuf,
    /// Mining and training seeds.
    pub seeds: Vec<u64>,
    /// Prompts to mine for each seed.
    pub prompts: usize,
    /// Test problems.
    pub problems: usize,
    /// Devices of one thread that work at the same time; results do not depend on it.
    pub workers: usize,
    /// The interpreter of the generator.
    pub python: String,
    /// What the report says of the program's version.
    pub commit: String,
    /// What the report says of the time, YYYY-MM-DD.
    pub date: String,
}

/// The demo pair and its problems.
pub struct Lab<'a> {
    /// Where and how much.
    pub settings: &'a Settings,
    /// The target.
    pub target: Arc<Model>,
    /// The drafter.
    pub draft: Arc<Model>,
    /// Their tokenizer.
    pub tokenizer: Tokenizer,
    template: ChatTemplate,
    /// Says what is being done.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

/// A file of problems.
pub struct Data {
    /// Digest of the file.
    pub digest: String,
    /// In the order of its lines.
    pub problems: Vec<Problem>,
}

impl Data {
    /// Reads word problems.
    pub fn read(path: &Path) -> Result<Data, ExperimentError> {
        let bytes = std::fs::read(path).map_err(|e| ExperimentError::io(path, e))?;
        Ok(Data {
            digest: crate::eval::digest(&bytes),
            problems: Task::WordProblems.parse(&bytes, path)?,
        })
    }
}

impl<'a> Lab<'a> {
    /// Opens the pair.
    pub fn open(
        settings: &'a Settings,
        tell: &'a (dyn Fn(&str) + Sync),
    ) -> Result<Lab<'a>, ExperimentError> {
        let target = Arc::new(Model::open(&settings.models.join("target"))?);
        let draft = Arc::new(Model::open(&settings.models.join("draft"))?);
        let template = ChatTemplate::open(&target.dir)?.ok_or_else(|| ExperimentError::Input {
            what: target.dir.display().to_string(),
            found: "no chat template".to_owned(),
            expected: "that of the demo's target".to_owned(),
        })?;
        Ok(Lab {
            tokenizer: Tokenizer::open(&target.dir)?,
            settings,
            target,
            draft,
            template,
            tell,
        })
    }

    /// The drafter as rows name it.
    pub fn drafter(&self) -> Drafter {
        Drafter::Model(self.draft.clone())
    }

    /// Positions of a device's context.
    pub fn context(&self) -> usize {
        self.target.config.max_positions
    }

    /// What lossy rules may not touch: end-of-sequence and special tokens.
    pub fn guard(&self) -> Guard {
        let ends = self.target.generation.eos.iter();
        ends.chain(self.tokenizer.special_ids()).copied().collect()
    }

    /// A device of one thread.
    pub fn device(
        &self,
        model: &Arc<Model>,
        drafter: Drafter,
    ) -> Result<Box<dyn Device>, ExperimentError> {
        Ok(Box::new(Cpu::open(&Setup {
            context: self.context(),
            target: model.clone(),
            drafter,
            threads: 1,
        })?))
    }

    fn of_seed(&self, seed: u64) -> PathBuf {
        self.settings.dir.join(format!("seed-{seed}"))
    }

    /// Where a file of this seed belongs.
    pub fn path(&self, seed: u64, name: &str) -> PathBuf {
        self.of_seed(seed).join(name)
    }

    /// Runs a script of the models' folder, and keeps what it prints.
    fn generate(&self, script: &str, args: &[String], out: &Path) -> Result<(), ExperimentError> {
        let script = self.settings.models.join(script);
        let run = Command::new(&self.settings.python)
            .arg(&script)
            .args(args)
            .output()
            .map_err(|e| ExperimentError::io(Path::new(&self.settings.python), e))?;
        if !run.status.success() {
            return Err(ExperimentError::Input {
                what: script.display().to_string(),
                found: String::from_utf8_lossy(&run.stderr).trim().to_owned(),
                expected: "problems".to_owned(),
            });
        }
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder).map_err(|e| ExperimentError::io(folder, e))?;
        }
        Ok(write_atomically(out, |file| file.write_all(&run.stdout))?)
    }

    /// The file that a seed's prompts are mined from.
    pub fn prompts(&self, seed: u64) -> Result<PathBuf, ExperimentError> {
        let path = self.path(seed, "problems.jsonl");
        if !path.exists() {
            let count = self.settings.prompts.to_string();
            let args = [
                "--seed",
                &(MINING_SEED + seed).to_string(),
                "--count",
                &count,
            ];
            self.generate("word_problems.py", &args.map(str::to_owned), &path)?;
        }
        Ok(path)
    }

    /// The file of the test problems.
    pub fn test_path(&self) -> PathBuf {
        let count = self.settings.problems;
        self.settings.dir.join(format!("test-{count}.jsonl"))
    }

    /// The test problems: none of them was mined, trained on or is an example of the demo.
    pub fn test(&self) -> Result<Data, ExperimentError> {
        let path = self.test_path();
        if !path.exists() {
            (self.tell)("test problems");
            let mut args: Vec<String> = vec!["--seed".into(), TEST_SEED.to_string()];
            let count = self.settings.problems.to_string();
            args.extend(["--count".into(), count, "--avoid".into()]);
            let kept = self.settings.models.join("problems.jsonl");
            args.push(kept.display().to_string());
            // the same problems, however many seeds there are
            for seed in (1..=5).chain(self.settings.seeds.iter().copied()) {
                args.push(self.prompts(seed)?.display().to_string());
            }
            self.generate("test_problems.py", &args, &path)?;
        }
        Data::read(&path)
    }

    /// A seed's samples, mined as far as they are not there.
    pub fn mined(&self, seed: u64, method: Method) -> Result<(Run, Shard), ExperimentError> {
        let dir = self.path(seed, &method.to_string());
        self.mine(seed, method, &dir)?;
        Ok(samples::read(&[dir])?)
    }

    /// Mines what is missing of all seeds, several at a time.
    pub fn mine_all(&self, method: Method) -> Result<(), ExperimentError> {
        self.mine_seeds(method, &self.settings.seeds)
    }

    /// Mines what is missing of these seeds, several at a time.
    pub fn mine_seeds(&self, method: Method, seeds: &[u64]) -> Result<(), ExperimentError> {
        parallel(self.settings.workers, seeds.len(), &|i| {
            let dir = self.path(seeds[i], &method.to_string());
            self.mine(seeds[i], method, &dir)
        })?;
        Ok(())
    }

    fn mine(&self, seed: u64, method: Method, dir: &Path) -> Result<(), ExperimentError> {
        let path = self.prompts(seed)?;
        let data = Data::read(&path)?;
        let mut done: HashSet<String> = HashSet::new();
        let before = Run::read(dir).ok();
        if before.is_some() {
            for number in samples::shards(dir)? {
                done.extend(Shard::prompts(dir, number)?.into_iter().map(|p| p.key));
            }
        }
        let mut items = Vec::new();
        for problem in &data.problems {
            let prompt = Prompt::new(problem.line, &problem.prompt);
            if !done.contains(&prompt.key) {
                let text = self.template.ask(None, &problem.prompt)?;
                items.push(Item {
                    prompt,
                    tokens: self.tokenizer.encode(&text, false)?,
                    response: None,
                });
            }
        }
        if items.is_empty() {
            return Ok(());
        }
        (self.tell)(&format!(
            "seed {seed}: mining {method}, {} prompts",
            items.len()
        ));
        let features = Features {
            layout: Layout::Dt,
            taps: vec![Tap::Final],
            target_width: self.target.config.hidden_size,
            draft_width: 0,
        };
        let suffixes = match method {
            Method::SelfJudge => SUFFIXES.to_vec(),
            _ => Vec::new(),
        };
        let checker = Task::WordProblems.checker();
        let settings = BTreeMap::from([
            ("prompts_digest".to_owned(), data.digest.clone().into()),
            ("max_tokens".to_owned(), MINED_TOKENS.into()),
        ]);
        // a folder that `gavel judge mine` began goes on with the settings it states
        let settings = match before {
            Some(run) => {
                for (name, value) in &settings {
                    if run.settings.get(name) != Some(value) {
                        return Err(ExperimentError::Input {
                            what: format!("{}: {name}", dir.display()),
                            found: format!("{:?}", run.settings.get(name)),
                            expected: value.to_string(),
                        });
                    }
                }
                run.settings
            }
            None => settings,
        };
        let run = Run {
            version: Run::VERSION,
            method,
            features: features.clone(),
            vocab_size: self.target.config.vocab_size,
            target_fingerprint: self.target.fingerprint().to_owned(),
            draft_fingerprint: Some(self.draft.fingerprint().to_owned()),
            ranks: 1,
            suffixes: suffixes.clone(),
            settings,
        };
        let options = mine::Options {
            method,
            features,
            suffixes,
            ranks: 1,
            max_tokens: MINED_TOKENS,
            context: self.context(),
            stop_tokens: self.target.generation.eos.clone(),
            guard: self.guard(),
            checker,
            baseline: false,
        };
        let reader = Reader::model(
            self.device(&self.draft, Drafter::None)?,
            self.target.config.vocab_size,
        );
        let device = self.device(&self.target, self.drafter())?;
        let mut miner = Miner::new(options, &self.tokenizer, device, reader);
        let job = Job {
            run: &run,
            out: dir,
            items: &items,
        };
        mine::run(&mut miner, &job, &mut |_| false)?;
        Ok(())
    }

    /// Trains on a seed's samples; the seed divides them.
    pub fn train(
        &self,
        seed: u64,
        samples: &(Run, Shard),
        options: Options,
    ) -> Result<Trained, ExperimentError> {
        let options = Options {
            seed,
            provenance: format!("gavel experiment, seed {seed}"),
            ..options
        };
        Ok(train::train(&samples.0, &samples.1, &options, &mut |_| {})?)
    }

    /// The judge of a seed as `main` uses it: trained once, then read from its file.
    pub fn judge(&self, seed: u64, method: Method) -> Result<Judge, ExperimentError> {
        let path = self.path(seed, &format!("{method}.safetensors"));
        if !path.exists() {
            let samples = self.mined(seed, method)?;
            (self.tell)(&format!("seed {seed}: training {method}"));
            let trained = self.train(seed, &samples, Options::default())?;
            trained.judge.write(&path)?;
        }
        Ok(Judge::read(&path)?)
    }
}

/// Runs jobs 0..count on so many threads; their results in order.
pub fn parallel<T: Send>(
    workers: usize,
    count: usize,
    job: &(dyn Fn(usize) -> Result<T, ExperimentError> + Sync),
) -> Result<Vec<T>, ExperimentError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, T)>, ExperimentError> {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return Ok(done);
            }
            match job(i) {
                Ok(result) => done.push((i, result)),
                Err(error) => {
                    // nobody begins another
                    next.store(count, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.clamp(1, count.max(1)))
            .map(|_| scope.spawn(work))
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(done) => all.extend(done?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, ExperimentError>(all)
    })?;
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}
