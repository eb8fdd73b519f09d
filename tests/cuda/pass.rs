//! Passes of whole models through the driver: bit for bit in any company, and failing on purpose.

use crate::common::{FIXTURES, edited_fixture, fixture};
use crate::process::{every_failure, on_softcuda, softcuda, with_driver};
use gavel::device::cuda::Cuda;
use gavel::device::{Device, DeviceError, Logits, PassOutput, Setup, Want, prefill};
use gavel::draft::Drafter;
use gavel::model::Model;
use gavel::tree::TokenTree;
use std::path::Path;
use std::sync::Arc;

fn open(name: &str) -> Cuda {
    open_at(&fixture(name))
}

fn open_at(folder: &Path) -> Cuda {
    let target = Arc::new(Model::open(folder).expect("a model"));
    let setup = Setup {
        context: 250,
        target,
        drafter: Drafter::None,
        threads: 1,
    };
    Cuda::open(&setup, 0).expect("a CUDA device")
}

fn all() -> Want {
    Want {
        logits: Logits::All,
        hidden: true,
        taps: vec![1],
        ..Want::default()
    }
}

/// Bits of one row: logits, last hidden state, hidden state after the first layer.
fn bits(output: &PassOutput, row: usize, rows: usize) -> Vec<u32> {
    let mut bits = Vec::new();
    for values in [&output.logits, &output.last_hidden, &output.taps[0].1] {
        let width = values.len() / rows;
        bits.extend(
            values[row * width..(row + 1) * width]
                .iter()
                .map(|v| v.to_bits()),
        );
    }
    bits
}

/// A tree whose nodes `2 i + 1` are a chain of `tokens`, each with an idle sibling before it, and
/// idle leaves behind up to `rows`.
fn bushy(tokens: &[u32], rows: usize) -> (TokenTree, Vec<usize>) {
    let mut tree = TokenTree::default();
    let (mut parent, mut path) = (None, Vec::new());
    for &token in tokens {
        tree.push(parent, (token + 1) % 300);
        let node = tree.push(parent, token);
        path.push(node);
        parent = Some(node);
    }
    while tree.len() < rows {
        tree.push(path.get(tree.len() % 7).copied(), tree.len() as u32);
    }
    (tree, path)
}

fn company() {
    for name in FIXTURES {
        let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 300).collect();
        let mut device = open(name);
        // plain decoding: every token in a pass of its own
        let alone: Vec<Vec<u32>> = tokens
            .iter()
            .map(|token| {
                bits(
                    &prefill(&mut device, &[*token], &all()).expect("a pass"),
                    0,
                    1,
                )
            })
            .collect();
        for chunk in [2, 7, 40] {
            device.rollback(0);
            let mut row = 0;
            for some in tokens.chunks(chunk) {
                let output = prefill(&mut device, some, &all()).expect("a pass");
                for i in 0..some.len() {
                    let same = bits(&output, i, some.len()) == alone[row];
                    assert!(same, "{name}: row {row} in chunks of {chunk}");
                    row += 1;
                }
            }
        }
        for (before, rows) in [(13, 0), (16, 33), (21, 64), (5, 130)] {
            device.rollback(0);
            prefill(&mut device, &tokens[..before], &Want::default()).expect("a pass");
            let branch = &tokens[before..before + 9];
            let (tree, path) = bushy(branch, rows);
            let output = device.pass(&tree, &all()).expect("a pass");
            for (i, &node) in path.iter().enumerate() {
                let same = bits(&output, node, tree.len()) == alone[before + i];
                assert!(same, "{name}: node {node} of {} after {before}", tree.len());
            }
            // branches of what is committed: the sequence itself from three places on
            let behind = [before - 4, before - 3, before - 1];
            let mut rows = TokenTree::default();
            for from in behind {
                let branch = tokens[from..from + 4].iter();
                branch.fold(None, |parent, &token| Some(rows.push(parent, token)));
            }
            let output = device.pass_behind(&rows, &behind, &all()).expect("a pass");
            for row in 0..rows.len() {
                let position = behind[row / 4] + row % 4;
                let same = bits(&output, row, rows.len()) == alone[position];
                assert!(
                    same,
                    "{name}: position {position} as a branch after {before}"
                );
            }
            let output = device.pass(&tree, &all()).expect("a pass");
            assert!(
                bits(&output, path[0], tree.len()) == alone[before],
                "{name}"
            );
            // the path moves to where plain decoding would have it
            device.commit(&path[..6]);
            let output = prefill(&mut device, &tokens[before + 6..before + 7], &all());
            let same = bits(&output.expect("a pass"), 0, 1) == alone[before + 6];
            assert!(same, "{name}: after a commit at {before}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    let runs = [
        [("SOFTCUDA_SEED", "0"), ("SOFTCUDA_MMA", "sequential")],
        [("SOFTCUDA_SEED", "7"), ("SOFTCUDA_MMA", "groups8")],
        [("SOFTCUDA_SEED", "19"), ("SOFTCUDA_MMA", "groups16")],
    ];
    for run in runs {
        let test = "pass::a_row_has_the_same_bits_in_any_company";
        if with_driver(test, |_| softcuda(), &run, company).is_none() {
            return;
        }
    }
}

/// A draft token whose activations are no numbers costs those who do not see it nothing: neither its
/// siblings, nor those who find its keys and values in slots that they do not see.
#[test]
fn a_row_of_no_numbers_stays_alone() {
    let test = "pass::a_row_of_no_numbers_stays_alone";
    on_softcuda(test, &[], || {
        const BROKEN: u32 = 7;
        let folder = tempfile::tempdir().expect("a folder");
        edited_fixture("llama-mha", folder.path(), |name, values| {
            if name.contains("embed_tokens") {
                let width = values.len() / 320;
                values[BROKEN as usize * width..][..width].fill(1e6);
            }
        });
        let prompt = [1, 2, 3];
        let passes = |sibling: u32| {
            let mut device = open_at(folder.path());
            prefill(&mut device, &prompt, &Want::default()).expect("a pass");
            let mut tree = TokenTree::default();
            for token in [5, sibling, 9] {
                tree.push(None, token);
            }
            tree.push(Some(0), 11);
            let output = device.pass(&tree, &all()).expect("a pass");
            let rows: Vec<Vec<u32>> = (0..4).map(|row| bits(&output, row, 4)).collect();
            // the sibling's slot lies behind this row's
            let after = prefill(&mut device, &[5], &all()).expect("a pass");
            (rows, bits(&after, 0, 1))
        };
        let (rows, after) = passes(8);
        let (beside, then) = passes(BROKEN);
        assert!(f32::from_bits(beside[1][0]).is_nan());
        for row in [0, 2, 3] {
            assert!(rows[row] == beside[row], "row {row}");
        }
        assert!(after == then, "a row in front of its slot");
    });
}

#[test]
fn every_failure_of_loading_and_a_pass_is_said_and_leaves_nothing() {
    let test = "pass::every_failure_of_loading_and_a_pass_is_said_and_leaves_nothing";
    let said = on_softcuda(test, &[], || {
        let target = Arc::new(Model::open(&fixture("llama-odd")).expect("a model"));
        let setup = Setup {
            context: 64,
            target,
            drafter: Drafter::None,
            threads: 1,
        };
        let once = || -> Result<_, DeviceError> {
            let mut device = Cuda::open(&setup, 0)?;
            let (tree, path) = bushy(&[3, 4, 5], 0);
            device.pass(&tree, &all())?;
            device.commit(&path);
            device.pass(&TokenTree::chain(&[9]), &all())
        };
        let bits = |logits: &[f32]| -> Vec<u32> { logits.iter().map(|z| z.to_bits()).collect() };
        let whole = bits(&once().expect("a pass").logits);
        let calls = every_failure(
            once,
            |kind, error| {
                let named = ["loading", "allocating", "copying", "launching", "clearing"];
                assert!(named.iter().any(|w| error.contains(w)), "{kind}: {error}");
            },
            |what, output| assert_eq!(bits(&output.logits), whole, "after {what}"),
        );
        println!("{calls:?} calls of each kind");
        assert!(calls.iter().all(|&n| n > 5), "{calls:?}");
    });
    if let Some(said) = said {
        assert!(!said.contains("leak"), "{said}");
    }
}
