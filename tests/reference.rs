//! The target pass against what transformers computes in float32 from the same weights.

mod common;

use common::*;
use gavel::device::cpu::Cpu;
use gavel::device::{Device, Logits, Want, prefill};
use gavel::draft::Drafter;
use gavel::tree::TokenTree;

/// Relative to the row's standard deviation, activations in float32.
const BOUND: f32 = 2e-3;

fn everything(tap: usize) -> Want {
    Want {
        logits: Logits::All,
        hidden: true,
        taps: vec![tap],
        ..Want::default()
    }
}

fn check(name: &str, device: &mut Cpu) {
    let (model, expected) = (open(&fixture(name)), Expected::read(name));
    let (v, h) = (model.config.vocab_size, model.config.hidden_size);
    let ids = expected.ids("input_ids");
    let tap = expected.tap();
    let output = prefill(device, &ids, &everything(tap)).unwrap();
    let errors = [
        (
            "logits",
            worst_row(&output.logits, &expected.f32("logits"), v),
        ),
        (
            "last_hidden",
            worst_row(&output.last_hidden, &expected.f32("last_hidden"), h),
        ),
        (
            "hidden",
            worst_row(
                &output.taps[0].1,
                &expected.f32(&format!("hidden_{tap}")),
                h,
            ),
        ),
    ];
    for (what, error) in errors {
        println!("{name}: {what} within {error:.1e} of the row's deviation");
    }
    for (what, error) in errors {
        assert!(error < BOUND, "{name}: {what} is off by {error}");
    }

    let tree = TokenTree::new(expected.ids("tree_ids"), expected.parents()).unwrap();
    let output = device.pass(&tree, &everything(tap)).unwrap();
    let error = worst_row(&output.logits, &expected.f32("tree_logits"), v);
    println!("{name}: tree logits within {error:.1e}");
    assert!(error < BOUND, "{name}: tree logits are off by {error}");

    let greedy = expected.ids("greedy");
    let mut found = Vec::new();
    device.rollback(ids.len() - 1);
    let mut last = ids[ids.len() - 1];
    for _ in 0..greedy.len() {
        let want = Want {
            logits: Logits::Last,
            ..Want::default()
        };
        last = argmax(&prefill(device, &[last], &want).unwrap().logits);
        found.push(last);
    }
    assert_eq!(found, greedy, "{name}: greedy continuation");
}

#[test]
fn fixtures_match_transformers() {
    for name in FIXTURES {
        check(name, &mut cpu(&open(&fixture(name))));
    }
}

#[test]
fn fixtures_match_transformers_without_simd_instructions() {
    for name in FIXTURES {
        let setup = setup(open(&fixture(name)), Drafter::None);
        check(name, &mut Cpu::open_portable(&setup).unwrap());
    }
}

#[test]
fn a_tree_equals_its_branches_read_one_by_one() {
    for name in FIXTURES {
        let (model, expected) = (open(&fixture(name)), Expected::read(name));
        let mut device = cpu(&model);
        let ids = expected.ids("input_ids");
        prefill(&mut device, &ids, &Want::default()).unwrap();
        let tree = TokenTree::new(expected.ids("tree_ids"), expected.parents()).unwrap();
        let tap = expected.tap();
        let together = device.pass(&tree, &everything(tap)).unwrap();
        let v = model.config.vocab_size;
        for node in 0..tree.len() {
            let branch: Vec<u32> = tree.path(node).iter().map(|&n| tree.tokens()[n]).collect();
            let alone = device
                .pass(&TokenTree::chain(&branch), &everything(tap))
                .unwrap();
            let last = &alone.logits[(branch.len() - 1) * v..];
            assert_eq!(
                bits(last),
                bits(&together.logits[node * v..][..v]),
                "{name}, node {node}"
            );
        }
    }
}
