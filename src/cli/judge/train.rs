//! `gavel judge train`: from mined samples to a judge file.

use super::figure;
use crate::cli::progress::Progress;
use crate::cli::setup::end_on_interrupt;
use crate::cli::usage;
use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use gavel::judge::train::{
    ClassWeights, Curves, HeadKind, Options, Quality, Report, Shares, Tau, train,
};
use gavel::judge::{Layout, Tap, samples};
use gavel::output::write_atomically;
use gavel::statistics::Interval;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Folders that gavel judge mine wrote; several are read as one
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The judge file; its curves go beside it, as FILE.curve.json and FILE.curve.svg
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// SelfJudge: the suffix length N of the scores [default: 20, or the largest mined]
    #[arg(long, value_name = "N")]
    suffix: Option<usize>,
    /// SelfJudge: divide scores by their number of terms
    #[arg(long)]
    normalise: bool,
    /// SelfJudge: the score from which a substitution is acceptable: auto (at most one in ten
    /// that change the answer reaches it), youden, quantile=Q of all scores, or a number
    #[arg(
        long,
        default_value = "auto",
        value_name = "RULE|TAU",
        allow_negative_numbers = true
    )]
    tau: Tau,
    /// linear, or two-layer[=WIDTH]
    #[arg(long, default_value = "linear", value_name = "KIND")]
    head: HeadKind,
    /// Inverse strengths of the L2 penalty to choose from [default: 1e-6 to 10 by tens]
    #[arg(long, value_name = "C,C,...", value_delimiter = ',')]
    c: Vec<f64>,
    /// Shares of the prompts: TRAIN,TAU,VALIDATION,TEST
    #[arg(long, default_value = "0.6,0.1,0.15,0.15", value_name = "SHARES")]
    split: Shares,
    /// Seed of the split, of a two-layer head and of the intervals
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Read only these of the mined features: DT or DD-DT
    #[arg(long, value_name = "LAYOUT", value_parser = super::layout)]
    layout: Option<Layout>,
    /// Read only these of the mined taps: final, or numbers of layers
    #[arg(long, value_name = "TAP,TAP,...", value_delimiter = ',')]
    taps: Vec<Tap>,
    /// Train on at most this many samples; validation and test stay whole
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Train on at most this many prompts
    #[arg(long, value_name = "N")]
    prompts: Option<usize>,
    /// Weights in the loss: plain, balanced, or that of unacceptable tokens over acceptable ones
    #[arg(long, default_value = "plain", value_name = "RULE|WEIGHT")]
    class_weights: ClassWeights,
    /// What the judge file is to say of its origin, before what it says by itself
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        hide_default_value = true
    )]
    provenance: String,
    /// Print one JSON object instead of the tables
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    end_on_interrupt()?;
    check_out(&args.out)?;
    let dirs: Vec<String> = args.dirs.iter().map(|d| d.display().to_string()).collect();
    let (run, mined) = samples::read(&args.dirs)?;
    let mined_in = format!("mined in {}", dirs.join(", "));
    let mut options = Options {
        suffix: args.suffix,
        normalise: args.normalise,
        tau: args.tau,
        head: args.head,
        shares: args.split,
        seed: args.seed,
        layout: args.layout,
        taps: (!args.taps.is_empty()).then(|| args.taps.clone()),
        max_samples: args.samples,
        max_prompts: args.prompts,
        class_weights: args.class_weights,
        provenance: match args.provenance.as_str() {
            "" => mined_in,
            text => format!("{text}; {mined_in}"),
        },
        ..Options::default()
    };
    if !args.c.is_empty() {
        options.c.clone_from(&args.c);
    }
    let mut progress = Progress::new(options.c.len(), "values of C");
    let trained = train(&run, &mined, &options, &mut |_| progress.advance(1));
    drop(progress);
    let trained = trained.with_context(|| dirs.join(", "))?;

    // the judge last: whoever finds it finds its curves beside it
    let curves = Curves::of(&trained);
    let json = serde_json::to_string(&curves)?;
    let picture = curves.svg()?;
    let (json_path, svg_path) = (
        beside(&args.out, ".curve.json"),
        beside(&args.out, ".curve.svg"),
    );
    write_atomically(&json_path, |file| writeln!(file, "{json}"))?;
    write_atomically(&svg_path, |file| file.write_all(picture.as_bytes()))?;
    trained.judge.write(&args.out)?;

    if args.json {
        println!("{}", serde_json::to_string(&trained.report)?);
        return Ok(());
    }
    show(&trained.report, trained.judge.meaning);
    println!(
        "wrote {}, {} and {}",
        args.out.display(),
        json_path.display(),
        svg_path.display()
    );
    Ok(())
}

/// Training takes minutes: what can not be written is said before.
fn check_out(out: &Path) -> anyhow::Result<()> {
    let folder = match out.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if out.is_dir() || !folder.is_dir() {
        let found = if out.is_dir() {
            "a folder"
        } else {
            "no such folder"
        };
        return Err(usage(format!(
            "--out {}: found {found}, expected the name of a file in a folder that is there",
            out.display()
        )));
    }
    Ok(())
}

/// The path with something appended to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_HORIZONTAL_ONLY);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

fn with_bounds(interval: Interval) -> String {
    let Interval { value, low, high } = interval;
    format!("{} ({} to {})", figure(value), figure(low), figure(high))
}

fn show(report: &Report, meaning: gavel::judge::Meaning) {
    let suffix = report
        .suffix
        .map_or(String::new(), |n| format!(", N = {n}"));
    println!(
        "labels of {}{suffix}; {} judge of {} features ({}); the sigmoid is P({})",
        report.method,
        report.head,
        report.features.len(),
        report.features.layout,
        match meaning {
            gavel::judge::Meaning::Acceptable => "acceptable",
            gavel::judge::Meaning::Important => "important",
        }
    );
    let head = [
        "part",
        "prompts",
        "samples",
        "acceptable",
        "unacceptable",
        "answer changes",
        "answer stays",
    ];
    let rows = report.parts.iter().map(|p| {
        let counts = [
            p.prompts,
            p.samples,
            p.acceptable,
            p.unacceptable,
            p.changing,
            p.keeping,
        ];
        let mut row = vec![p.part.to_string()];
        row.extend(counts.map(|n| n.to_string()));
        row
    });
    table(&head, rows.collect());
    if let Some(tau) = &report.tau {
        println!(
            "tau {:.4} ({}): reached by {} of {} substitutions of the tau part that change the answer, {} of {} that keep it",
            tau.value,
            tau.rule,
            tau.changing_accepted,
            tau.changing,
            tau.keeping_accepted,
            tau.keeping
        );
    }
    let linear = report.head == "linear";
    let rows = report.grid.iter().map(|point| {
        let chosen = if point.c == report.c { " chosen" } else { "" };
        vec![
            format!("{:e}{chosen}", point.c),
            format!("{:.4}", point.auroc),
            point.iterations.to_string(),
            if point.converged { "yes" } else { "no" }.to_owned(),
        ]
    });
    let (steps, ended) = match linear {
        true => ("iterations", "converged"),
        false => ("epochs", "AUROC settled"),
    };
    table(&["C", "AUROC", steps, ended], rows.collect());
    let ends = [report.grid.first(), report.grid.last()];
    if report.grid.len() > 1 && ends.iter().flatten().any(|p| p.c == report.c) {
        println!("the chosen C is at the end of the grid: a wider --c may do better");
    }
    let mut rows = Vec::new();
    quality(&mut rows, "validation", &report.validation);
    if let Some(test) = &report.test {
        quality(&mut rows, "test", test);
    }
    let head = [
        "part, point",
        "theta",
        "precision",
        "recall",
        "F1",
        "harmful per answer",
    ];
    table(&head, rows);
    println!(
        "AUROC, validation      {}",
        with_bounds(report.validation.auroc)
    );
    match &report.test {
        Some(test) => println!("AUROC, test            {}", with_bounds(test.auroc)),
        None => println!("AUROC, test            none: the test part has not both classes"),
    }
    match &report.common {
        Some(common) => println!(
            "AUROC, answer changes  {}; {} of {} checked substitutions of the test part change it",
            with_bounds(common.auroc),
            common.changing,
            common.changing + common.keeping
        ),
        None => println!(
            "AUROC, answer changes  none: the test part has not both answers that change and answers that stay"
        ),
    }
    println!("positive is unacceptable; intervals are 95 %, bootstrapped by prompt");
}

fn quality(rows: &mut Vec<Vec<String>>, part: &str, quality: &Quality) {
    for point in &quality.points {
        rows.push(vec![
            format!("{part}, {}", point.name),
            format!("{:.4}", point.at.theta),
            figure(point.at.precision),
            figure(point.at.recall),
            figure(point.at.f1),
            figure(point.harmful_per_answer),
        ]);
    }
}
