//! What every rule buys, and its price: accuracy against m on the same test problems.

use super::decode::{
    Tally, accuracy, accuracy_difference, decode, m_of_all, m_ratio, mean_kept, pool, right,
    tokens_per_pass,
};
use super::lab::Lab;
use super::report::{Part, bounds, list, points, table};
use super::{ExperimentError, Settings};
use crate::eval::{Menu, NamedJudge, Row};
use crate::judge::samples::Method;
use crate::judge::{At, Judge};
use crate::output::write_atomically;
use crate::plot::{Plot, Point, Series};
use crate::statistics::Interval;
use crate::tree::Shape;
use crate::verify::Sampling;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Expected harmful rescues per answer, on a judge's stored validation curve, at its chosen
/// operating point: half of the two points of accuracy that it may cost.
pub const BUDGET: f32 = 0.01;
/// Lengths of drafted chains.
const GAMMAS: [usize; 2] = [8, 20];
const TREE: &str = "4x2x2x1";
/// Where the first seed's judges are used beside their chosen points, at the first gamma.
const POINTS: [(&str, At); 4] = [
    ("f1", At::F1),
    ("mid", At::Mid),
    ("r90", At::R90),
    ("0.98", At::Theta(0.98)),
];
/// Rules without training, at every gamma. Block verification is the chain rule at
/// temperature 0.
const RULES: [&str; 5] = ["kl=0.2", "margin=0.9", "typical", "threshold=0.3", "topk=2"];
/// Other strengths of theirs.
const STRENGTHS: [&str; 4] = ["kl=0.05", "kl=1", "margin=0.97", "threshold=0.1"];
/// Problems that `make test` answers again.
const KEPT: usize = 200;
/// What the chosen point must reach: m over chain's, and accuracy less plain decoding's.
const LEAST_RATIO: f64 = 1.2;
const MOST_LOSS: f64 = 0.02;

/// [`At::Budget`] on a judge's validation curve; `None` without one.
pub fn within_budget(judge: &Judge, budget: f32) -> Option<f32> {
    judge.theta(At::Budget(budget)).ok()
}

/// Rows that belong together: one, or one for each seed's judge.
struct Entry {
    method: String,
    point: String,
    gamma: Option<usize>,
    rows: Vec<usize>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
struct Line {
    method: String,
    point: String,
    gamma: Option<usize>,
    thetas: Vec<f32>,
    accuracy: Interval,
    accuracy_difference: Interval,
    m: Interval,
    m_ratio: Option<Interval>,
    m_ratio_of_seeds: Vec<f64>,
    accuracy_difference_of_seeds: Vec<f64>,
    tokens_per_pass: f64,
    judged_share: f64,
}

/// What `make test` compares with: a judge on some problems, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Version of the program that made it.
    pub commit: String,
    /// Digest of the judge's file.
    pub judge: String,
    /// The judge's threshold.
    pub theta: f32,
    /// Length of the drafted chains.
    pub gamma: usize,
    /// The rows, `chain` and `selfjudge`.
    pub rows: Vec<KeptRow>,
}

/// What a row made of the problems of `main-test.jsonl`, in their order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptRow {
    /// Its name.
    pub name: String,
    /// One a problem.
    pub tallies: Vec<Tally>,
}

/// All rows and how they are grouped.
struct Rows {
    rows: Vec<Row>,
    thetas: Vec<f32>,
    entries: Vec<Entry>,
}

impl Rows {
    fn add(&mut self, method: &str, point: &str, gamma: Option<usize>, made: Vec<(Row, f32)>) {
        let first = self.rows.len();
        let count = made.len();
        for (row, theta) in made {
            self.rows.push(row);
            self.thetas.push(theta);
        }
        self.entries.push(Entry {
            method: method.to_owned(),
            point: point.to_owned(),
            gamma,
            rows: (first..first + count).collect(),
        });
    }
}

/// Rows of the demo pair, greedy.
pub fn menu(lab: &Lab<'_>, gammas: Vec<usize>, judges: Vec<NamedJudge>) -> Menu {
    Menu {
        drafters: vec![("draft".to_owned(), lab.drafter())],
        gammas,
        trees: TREE.parse::<Shape>().into_iter().collect(),
        judges,
        thetas: Vec::new(),
        draw: None,
        draft_sampling: Sampling::GREEDY,
        sampling: Sampling::GREEDY,
        guard: lab.guard(),
    }
}

/// The row of one judge at a threshold.
pub fn judged(
    lab: &Lab<'_>,
    name: &str,
    judge: &Arc<Judge>,
    theta: f32,
    gamma: usize,
) -> Result<Row, ExperimentError> {
    judge.check(&lab.target, Some(&lab.draft), false)?;
    let mut menu = menu(
        lab,
        vec![gamma],
        vec![NamedJudge {
            name: name.to_owned(),
            judge: judge.clone(),
        }],
    );
    menu.thetas = vec![At::Theta(theta)];
    let mut row = menu.rows(&[name])?.remove(0);
    row.name = format!("{name} {theta} {gamma}");
    Ok(row)
}

/// Judges of the first seeds, made by one method.
type Judges = (Method, Vec<Arc<Judge>>);

/// How much of the table is decoded; each stage has the rows of the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// What the verdict is about: plain, chain, all SelfJudges at their chosen points.
    Verdict,
    /// The rules without training.
    Untrained,
    /// The first seed's AutoJudge at its chosen point.
    AutoJudge,
    /// The other seeds' AutoJudges at their chosen points.
    AllAutoJudges,
    /// The first seed's judges at other points, other strengths of the rules without
    /// training, a tree.
    Whole,
}

impl Stage {
    const ALL: [Stage; 5] = [
        Stage::Verdict,
        Stage::Untrained,
        Stage::AutoJudge,
        Stage::AllAutoJudges,
        Stage::Whole,
    ];

    /// What the table lacks, in words; empty where it is whole.
    fn missing(self) -> &'static str {
        match self {
            Stage::Verdict => "the rules without training, AutoJudge, all rules at other points",
            Stage::Untrained => "AutoJudge, all rules at other points",
            Stage::AutoJudge => "all rules at other points, AutoJudge of all seeds but the first",
            Stage::AllAutoJudges => "all rules at other points",
            Stage::Whole => "",
        }
    }

    /// The judges that stand in the table, mined and trained where they are not there.
    fn judges(self, lab: &Lab<'_>) -> Result<Vec<Judges>, ExperimentError> {
        let seeds = &lab.settings.seeds;
        let mut methods = vec![(Method::SelfJudge, &seeds[..])];
        match self {
            Stage::Verdict | Stage::Untrained => (),
            Stage::AutoJudge => methods.push((Method::AutoJudge, &seeds[..seeds.len().min(1)])),
            Stage::AllAutoJudges | Stage::Whole => methods.push((Method::AutoJudge, &seeds[..])),
        }
        let mut all = Vec::new();
        for (method, seeds) in methods {
            lab.mine_seeds(method, seeds)?;
            let judges = seeds.iter().map(|&seed| lab.judge(seed, method));
            let judges: Result<Vec<_>, _> = judges.map(|j| j.map(Arc::new)).collect();
            all.push((method, judges?));
        }
        Ok(all)
    }
}

/// The rows of a stage.
fn rows(lab: &Lab<'_>, judges: &[Judges], stage: Stage) -> Result<Rows, ExperimentError> {
    let mut all = Rows {
        rows: Vec::new(),
        thetas: Vec::new(),
        entries: Vec::new(),
    };
    let plain = menu(lab, vec![1], Vec::new()).rows(&["plain"])?.remove(0);
    all.add("plain", "", None, vec![(plain, f32::NAN)]);
    for gamma in GAMMAS {
        let menu = menu(lab, vec![gamma], Vec::new());
        let mut untrained = vec!["chain"];
        if stage >= Stage::Untrained {
            untrained.extend(RULES);
        }
        if stage >= Stage::Whole {
            untrained.extend(STRENGTHS);
        }
        for rule in untrained {
            let row = menu.rows(&[rule])?.remove(0);
            let (name, point) = rule.split_once('=').unwrap_or((rule, ""));
            all.add(name, point, Some(gamma), vec![(row, f32::NAN)]);
        }
        for (method, judges) in judges {
            let mut add = |point: &str, judges: &[Arc<Judge>], at: Option<At>| {
                let mut made = Vec::new();
                for (seed, judge) in lab.settings.seeds.iter().zip(judges) {
                    let theta = match at {
                        Some(at) => judge.theta(at)?,
                        None => within_budget(judge, BUDGET).ok_or_else(|| no_curve(*seed))?,
                    };
                    let name = format!("{method}-{seed}-{point}");
                    made.push((judged(lab, &name, judge, theta, gamma)?, theta));
                }
                all.add(&method.to_string(), point, Some(gamma), made);
                Ok::<_, ExperimentError>(())
            };
            add("chosen", judges, None)?;
            if stage >= Stage::Whole && gamma == GAMMAS[0] {
                for (point, at) in POINTS {
                    add(point, &judges[..judges.len().min(1)], Some(at))?;
                }
            }
        }
    }
    if stage >= Stage::Whole {
        let tree = menu(lab, vec![1], Vec::new()).rows(&["tree"])?.remove(0);
        all.add("tree", TREE, None, vec![(tree, f32::NAN)]);
    }
    Ok(all)
}

fn no_curve(seed: u64) -> ExperimentError {
    ExperimentError::Input {
        what: format!("judge of seed {seed}"),
        found: "no validation curve".to_owned(),
        expected: "one; remove the file, and it is trained again".to_owned(),
    }
}

/// Decodes the table in stages; `early` gets what there is after each but the last.
pub fn run(
    lab: &Lab<'_>,
    early: &dyn Fn(Part) -> Result<(), ExperimentError>,
) -> Result<Part, ExperimentError> {
    // what needs one seed alone comes first
    keep(lab)?;
    let out = decoded(lab.settings);
    let mut last = None;
    for stage in Stage::ALL {
        if let Some(part) = last.take() {
            early(part)?;
        }
        let judges = stage.judges(lab)?;
        let test = lab.test()?;
        let all = rows(lab, &judges, stage)?;
        (lab.tell)(&format!("decoding: {} rows", all.rows.len()));
        let columns = decode(lab, &test, &all.rows, &out)?;
        last = Some(part(lab.settings, &all, &columns, stage));
    }
    last.ok_or_else(|| no_curve(0))
}

/// Keeps the first problems, and what chain and the first seed's SelfJudge at its chosen
/// point made of them.
fn keep(lab: &Lab<'_>) -> Result<(), ExperimentError> {
    let (settings, gamma) = (lab.settings, GAMMAS[0]);
    let Some(&seed) = settings.seeds.first() else {
        return Ok(());
    };
    let judge = Arc::new(lab.judge(seed, Method::SelfJudge)?);
    let theta = within_budget(&judge, BUDGET).ok_or_else(|| no_curve(seed))?;
    let mut test = lab.test()?;
    test.problems.truncate(KEPT);
    let mut rows = menu(lab, vec![gamma], Vec::new()).rows(&["plain", "chain"])?;
    rows.push(judged(lab, "selfjudge", &judge, theta, gamma)?);
    let mut columns = decode(lab, &test, &rows, &decoded(settings))?.into_iter();
    columns.next();
    let kept = Kept {
        commit: settings.commit.clone(),
        judge: crate::eval::digest(&judge.to_bytes()?),
        theta,
        gamma,
        rows: ["chain", "selfjudge"]
            .into_iter()
            .zip(columns)
            .map(|(name, tallies)| KeptRow {
                name: name.to_owned(),
                tallies,
            })
            .collect(),
    };
    let out = &settings.out;
    std::fs::create_dir_all(out).map_err(|e| ExperimentError::io(out, e))?;
    let from = lab.test_path();
    let text = std::fs::read_to_string(&from).map_err(|e| ExperimentError::io(&from, e))?;
    write_atomically(&out.join("main-test.jsonl"), |file| {
        text.lines()
            .take(KEPT)
            .try_for_each(|line| writeln!(file, "{line}"))
    })?;
    let json = serde_json::to_string(&kept).unwrap_or_default();
    write_atomically(&out.join("main-test.json"), |file| writeln!(file, "{json}"))?;
    Ok(())
}

/// Where outcomes of the test problems are kept.
pub fn decoded(settings: &Settings) -> PathBuf {
    settings.dir.join(format!("decoded-{}", settings.problems))
}

fn part(settings: &Settings, all: &Rows, columns: &[Vec<Tally>], stage: Stage) -> Part {
    let chain = |gamma: Option<usize>| {
        // a tree is as deep as four tokens; its chain is that of the first gamma
        let gamma = gamma.or(Some(GAMMAS[0]));
        let found = all
            .entries
            .iter()
            .find(|e| e.method == "chain" && e.gamma == gamma);
        found.map(|e| columns[e.rows[0]].as_slice()).unwrap_or(&[])
    };
    let plain = columns[0].as_slice();
    let mut lines = Vec::new();
    for entry in &all.entries {
        let of_rows: Vec<&[Tally]> = entry.rows.iter().map(|&r| columns[r].as_slice()).collect();
        let pooled = pool(&of_rows);
        let base = chain(entry.gamma);
        let compared = entry.method != "plain";
        let each = |value: &dyn Fn(&[Tally]) -> f64| of_rows.iter().map(|c| value(c)).collect();
        let judged: usize = pooled.iter().map(|t| t.judged).sum();
        let tokens: usize = pooled.iter().map(|t| t.tokens).sum();
        lines.push(Line {
            method: entry.method.clone(),
            point: entry.point.clone(),
            gamma: entry.gamma,
            thetas: entry
                .rows
                .iter()
                .map(|&r| all.thetas[r])
                .filter(|t| t.is_finite())
                .collect(),
            accuracy: accuracy(&pooled),
            accuracy_difference: accuracy_difference(&pooled, plain),
            m: mean_kept(&pooled),
            m_ratio: compared.then(|| m_ratio(&pooled, base)),
            m_ratio_of_seeds: match compared {
                true => each(&|c| m_of_all(c) / m_of_all(base)),
                false => Vec::new(),
            },
            accuracy_difference_of_seeds: each(&|c| right(c) - right(plain)),
            tokens_per_pass: tokens_per_pass(&pooled),
            judged_share: judged as f64 / tokens.max(1) as f64,
        });
    }
    let verdicts = verdicts(&lines);
    let text = text(settings, &lines, &verdicts, stage);
    Part {
        figures: serde_json::json!({
            "problems": settings.problems,
            "budget": BUDGET,
            "lines": lines,
            "verdicts": verdicts,
            "missing": stage.missing(),
        }),
        plots: GAMMAS.map(|gamma| plot(gamma, &lines)).into(),
        title: "What the rules buy, and their price",
        text,
    }
}

/// At each gamma, what the chosen point of SelfJudge reached.
fn verdicts(lines: &[Line]) -> Vec<String> {
    let chosen = lines
        .iter()
        .filter(|l| l.method == "selfjudge" && l.point == "chosen");
    chosen
        .filter_map(|l| {
            let ratio = l.m_ratio?;
            let loss = -l.accuracy_difference.low;
            let met = ratio.low > LEAST_RATIO && loss < MOST_LOSS;
            Some(format!(
                "gamma {}: lower bound of m over chain's {:.3} (required: above {LEAST_RATIO}), upper bound of the accuracy loss {:.2} points (required: below {}): {}",
                l.gamma.unwrap_or(0),
                ratio.low,
                100.0 * loss,
                100.0 * MOST_LOSS,
                if met { "met" } else { "not met" },
            ))
        })
        .collect()
}

fn text(settings: &Settings, lines: &[Line], verdicts: &[String], stage: Stage) -> String {
    let mut text = format!(
        "{} test problems; seeds' judges (SelfJudge with N = 20, AutoJudge) are pooled problem by problem, resampled by problem; \
         other points are those of the first seed's judge. \
         *chosen* is the least restrictive threshold of a judge's own validation curve with at most {BUDGET} expected harmful rescues per answer; \
         no test problem had a part in it. m is compared with the chain's at the same gamma (the tree's with gamma {}), accuracy with plain decoding's.\n\n",
        settings.problems, GAMMAS[0]
    );
    if stage != Stage::Whole {
        text += &format!(
            "Not decoded yet: {}. The same command goes on.\n\n",
            stage.missing()
        );
    }
    for verdict in verdicts {
        text += &format!("SelfJudge at its chosen point, {verdict}.\n\n");
    }
    let head = [
        "decoding",
        "gamma",
        "judges",
        "thetas",
        "right, %",
        "less plain's, points",
        "m",
        "m over chain's",
        "tokens/pass",
        "rescued, %",
    ];
    let rows = lines.iter().map(|l| {
        let thetas: Vec<String> = l.thetas.iter().map(|t| format!("{t:.3}")).collect();
        let mut distinct = thetas;
        let judges = distinct.len();
        distinct.dedup();
        vec![
            format!("{} {}", l.method, l.point).trim().to_owned(),
            l.gamma.map_or(String::new(), |g| g.to_string()),
            match judges {
                0 => String::new(),
                judges => judges.to_string(),
            },
            list(&distinct),
            format!("{:.2}", 100.0 * l.accuracy.value),
            points(l.accuracy_difference, 2),
            format!("{:.3}", l.m.value),
            l.m_ratio.map_or(String::new(), |r| bounds(r, 3)),
            format!("{:.2}", l.tokens_per_pass),
            format!("{:.1}", 100.0 * l.judged_share),
        ]
    });
    text += &table(&head, rows.collect());
    text += "\n";
    for gamma in GAMMAS {
        for most in [0.005, 0.01, 0.02, 0.05] {
            text += &winner(lines, gamma, most);
        }
    }
    text + "\n" + &of_seeds(settings, lines)
}

/// The chosen points, seed by seed.
fn of_seeds(settings: &Settings, lines: &[Line]) -> String {
    let mut rows = Vec::new();
    for line in lines.iter().filter(|l| l.point == "chosen") {
        for (i, seed) in settings.seeds.iter().take(line.thetas.len()).enumerate() {
            let number = |values: &[f64], scale: f64, digits: usize| {
                values
                    .get(i)
                    .map_or(String::new(), |v| format!("{:.digits$}", scale * v))
            };
            rows.push(vec![
                line.method.clone(),
                line.gamma.map_or(String::new(), |g| g.to_string()),
                seed.to_string(),
                line.thetas
                    .get(i)
                    .map_or(String::new(), |t| format!("{t:.4}")),
                number(&line.m_ratio_of_seeds, 1.0, 3),
                number(&line.accuracy_difference_of_seeds, 100.0, 2),
            ]);
        }
    }
    let head = [
        "chosen point of",
        "gamma",
        "seed",
        "theta",
        "m over chain's",
        "less plain's, points",
    ];
    table(&head, rows)
}

/// Which line keeps most among those whose accuracy loss is surely below a bound.
fn winner(lines: &[Line], gamma: usize, most: f64) -> String {
    let fits = lines
        .iter()
        .filter(|l| l.gamma == Some(gamma) && -l.accuracy_difference.low < most);
    let best = fits.max_by(|a, b| a.m.value.total_cmp(&b.m.value));
    match best {
        None => format!(
            "- gamma {gamma}, upper bound of the loss below {} points: none\n",
            100.0 * most
        ),
        Some(l) => format!(
            "- gamma {gamma}, upper bound of the loss below {} points: {} {} has the largest m, {:.3}\n",
            100.0 * most,
            l.method,
            l.point,
            l.m.value
        ),
    }
}

fn plot(gamma: usize, lines: &[Line]) -> Plot {
    let mut series: Vec<Series> = Vec::new();
    for line in lines.iter().filter(|l| l.gamma == Some(gamma)) {
        let point = Point {
            x: line.m.value,
            y: line.accuracy.value,
            error: Some((line.accuracy.low, line.accuracy.high)),
        };
        match series.iter_mut().find(|s| s.name == line.method) {
            Some(series) => series.points.push(point),
            None => series.push(Series::marked(line.method.clone(), vec![point])),
        }
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    Plot {
        title: format!("gamma {gamma}"),
        x: "m: draft tokens kept per target pass".to_owned(),
        y: "accuracy".to_owned(),
        series,
        ..Plot::default()
    }
}
