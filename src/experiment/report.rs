//! The report: a file of figures, a picture and a section of `README.md` an experiment.

use super::{Experiment, ExperimentError, Settings};
use crate::output::write_atomically;
use crate::plot::{Plot, svg};
use crate::statistics::Interval;
use comfy_table::{CellAlignment, Table, presets};

/// What an experiment found.
pub struct Part {
    /// For `NAME.json`.
    pub figures: serde_json::Value,
    /// Side by side in `NAME.svg`.
    pub plots: Vec<Plot>,
    /// Title of the section.
    pub title: &'static str,
    /// The section: paragraphs and tables.
    pub text: String,
}

const HEAD: &str = "# Judges on the demo pair\n\n\
    What the judge rules do on the pair in `models/demo`, greedy, on generated word problems \
    that neither the models nor the judges have seen. `make judge-report` makes everything \
    here; it goes on where it was interrupted, and takes hours on two cores. Intervals in \
    brackets are 95 % percentile bootstraps. m: draft tokens kept per target pass.\n";

const TAIL: &str = "## A judge of one target on another\n\n\
    Not measured here: the demo has one target, and a second one of its width would have to \
    be trained. A copy of it with noise on its weights or with layers left out is no other \
    model. With two targets, `gavel eval --allow-foreign-target` measures it.\n\n\
    ## Another target, other drafters\n\n\
    [SmolLM2](smollm2.md) with n-gram lookup and with its own first layers, on GSM8K.\n";

/// Writes figures, picture and section; returns the section.
pub fn write(
    experiment: Experiment,
    settings: &Settings,
    part: Part,
) -> Result<String, ExperimentError> {
    let (name, out) = (experiment.name(), &settings.out);
    std::fs::create_dir_all(out).map_err(|e| ExperimentError::io(out, e))?;
    let mut figures = part.figures;
    if let Some(fields) = figures.as_object_mut() {
        fields.insert("commit".into(), settings.commit.clone().into());
        fields.insert("date".into(), settings.date.clone().into());
        fields.insert("seeds".into(), settings.seeds.clone().into());
        fields.insert("prompts".into(), settings.prompts.into());
    }
    let json = serde_json::to_string_pretty(&figures).unwrap_or_default();
    write_atomically(&out.join(format!("{name}.json")), |f| writeln!(f, "{json}"))?;
    let picture = svg(&part.plots)?;
    write_atomically(&out.join(format!("{name}.svg")), |f| {
        f.write_all(picture.as_bytes())
    })?;
    let section = format!(
        "## {}\n\n{}, commit {}, seeds {}, {} prompts mined for each: `gavel experiment {name} --dir WORKDIR`. Figures: [{name}.json]({name}.json).\n\n{}\n![{name}]({name}.svg)\n",
        part.title,
        settings.date,
        settings.commit,
        list(&settings.seeds),
        settings.prompts,
        part.text,
    );
    let path = out.join("README.md");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let text = assemble(&before, experiment, &section);
    write_atomically(&path, |f| f.write_all(text.as_bytes()))?;
    Ok(section)
}

fn mark(experiment: Experiment, what: &str) -> String {
    format!("<!-- {experiment} {what} -->\n")
}

/// The report with one section made anew, the others as they were.
fn assemble(before: &str, experiment: Experiment, section: &str) -> String {
    let mut text = HEAD.to_owned();
    for other in Experiment::ALL {
        let (begin, end) = (mark(other, "begins"), mark(other, "ends"));
        let body = match other == experiment {
            true => Some(section),
            false => before
                .split_once(&begin)
                .and_then(|(_, rest)| rest.split_once(&end))
                .map(|(body, _)| body),
        };
        if let Some(body) = body {
            text += &format!("\n{begin}{body}{end}");
        }
    }
    text + "\n" + TAIL
}

/// A table in Markdown: the first column left, the others right.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// Numbers with commas between them.
pub fn list<T: ToString>(numbers: &[T]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// `value (low to high)`.
pub fn bounds(interval: Interval, digits: usize) -> String {
    let Interval { value, low, high } = interval;
    format!("{value:.digits$} ({low:.digits$} to {high:.digits$})")
}

/// A difference of shares in points, with signs.
pub fn points(interval: Interval, digits: usize) -> String {
    let [value, low, high] = [interval.value, interval.low, interval.high].map(|x| 100.0 * x);
    format!("{value:+.digits$} ({low:+.digits$} to {high:+.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_the_others_stay_in_order() {
        let first = assemble("", Experiment::Suffix, "old suffix\n");
        let second = assemble(&first, Experiment::Main, "main\n");
        let third = assemble(&second, Experiment::Suffix, "new suffix\n");
        assert!(!third.contains("old suffix"));
        let main = third.find("\nmain\n").unwrap();
        assert!(main < third.find("\nnew suffix\n").unwrap());
        assert_eq!(third, assemble(&third, Experiment::Main, "main\n"));
    }
}
