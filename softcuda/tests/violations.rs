//! The README's table of mistakes: every rule is in it, and every test that it names is there.

use softcuda::exec::Rule::{self, *};
use std::collections::BTreeSet;
use std::path::Path;

/// All rules. The match has no arm for what is not here: a new rule does not compile until it is.
fn rules() -> Vec<Rule> {
    fn next(rule: Rule) -> Option<Rule> {
        match rule {
            OutOfBounds => Some(Misaligned),
            Misaligned => Some(Uninitialised),
            Uninitialised => Some(SharedRace),
            SharedRace => Some(GlobalRace),
            GlobalRace => Some(NonCoherent),
            NonCoherent => Some(Pending),
            Pending => Some(Divergent),
            Divergent => Some(Deadlock),
            Deadlock => Some(Undefined),
            Undefined => Some(Limit),
            Limit => Some(Trap),
            Trap => None,
        }
    }
    std::iter::successors(Some(OutOfBounds), |&rule| next(rule)).collect()
}

/// The function `name` of `tests/FILE.rs`, from its `#[test]` to the end of its body.
fn test_named<'a>(source: &'a str, name: &str) -> Option<&'a str> {
    let start = source.find(&format!("\n#[test]\nfn {name}()"))?;
    let rest = &source[start..];
    Some(&rest[..rest.find("\n}\n")?])
}

#[test]
fn every_kind_has_a_planted_fault_and_a_clean_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(folder.join("README.md")).expect("the README");
    let table = readme
        .lines()
        .skip_while(|line| !line.starts_with("| kind | rule or error | planted |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut named = BTreeSet::new();
    for row in table {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_, rule, planted, clean] = cells[..] else {
            panic!("four cells: {row}");
        };
        let rule = rule.trim_matches('`');
        named.insert(rule.to_owned());
        for (test, what) in [(planted, "planted"), (clean, "clean")] {
            let (file, name) = test.trim_matches('`').split_once("::").expect(row);
            let path = folder.join("tests").join(file).with_extension("rs");
            let source = std::fs::read_to_string(&path).expect(row);
            let Some(body) = test_named(&source, name) else {
                panic!("{path:?} has no test {name}, {what} for: {row}");
            };
            // whoever plants a fault asks for its rule, or for the error
            let asked = if rule == "told at exit" {
                "leak: "
            } else {
                rule
            };
            assert!(
                what == "clean" || body.contains(asked),
                "{name} in {path:?} does not ask for {rule}"
            );
        }
    }
    for rule in rules() {
        let name = format!("{rule:?}");
        assert!(named.contains(&name), "no row of the table has {name}");
    }
}
