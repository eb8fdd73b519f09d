//! Batch invariance: a row's bits depend on the row alone.

mod common;

use common::*;
use gavel::device::cpu::Cpu;
use gavel::device::{Device, Logits, PassOutput, Setup, Want, prefill};
use gavel::draft::Drafter;
use gavel::model::Model;
use gavel::tree::TokenTree;
use std::sync::Arc;

const PREFIX: usize = 40;
const ROWS: usize = 64;

fn everything() -> Want {
    Want {
        logits: Logits::All,
        hidden: true,
        taps: vec![1],
        ..Want::default()
    }
}

fn device(model: &Arc<Model>, threads: usize) -> Cpu {
    let setup = Setup {
        threads,
        ..setup(model.clone(), Drafter::None)
    };
    Cpu::open(&setup).unwrap()
}

fn tokens(model: &Model, count: usize) -> Vec<u32> {
    let mut state = 12345u64;
    let mut draw = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as u32 % model.config.vocab_size as u32
    };
    (0..count).map(|_| draw()).collect()
}

/// The bits of one row of everything that a pass returns.
fn row_bits(model: &Model, output: &PassOutput, row: usize) -> [Vec<u32>; 3] {
    let (v, h) = (model.config.vocab_size, model.config.hidden_size);
    [
        bits(&output.logits[row * v..][..v]),
        bits(&output.last_hidden[row * h..][..h]),
        bits(&output.taps[0].1[row * h..][..h]),
    ]
}

/// The last of `rows` tokens behind the prefix, computed in passes of `together` rows.
fn in_passes(device: &mut Cpu, rows: &[u32], together: usize) -> PassOutput {
    let mut output = PassOutput::default();
    for chunk in rows.chunks(together) {
        output.append(prefill(device, chunk, &everything()).unwrap());
    }
    output
}

fn check_chain(model: &Arc<Model>, prefix: usize, rows: usize) {
    let all = tokens(model, prefix + rows);
    let mut expected: Option<PassOutput> = None;
    for threads in [1, 2] {
        let mut device = device(model, threads);
        for together in [1, 2, 8, 33, 64] {
            device.rollback(0);
            prefill(&mut device, &all[..prefix], &Want::default()).unwrap();
            let output = in_passes(&mut device, &all[prefix..], together);
            let expected = expected.get_or_insert_with(|| output.clone());
            for row in 0..rows {
                assert_eq!(
                    row_bits(model, &output, row),
                    row_bits(model, expected, row),
                    "row {row}, {together} rows a pass, {threads} threads"
                );
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company_on_any_threads() {
    for name in FIXTURES {
        check_chain(&open(&fixture(name)), PREFIX, ROWS);
    }
    check_chain(&demo_target(), PREFIX, ROWS);
}

#[test]
fn a_row_of_smollm2_has_the_same_bits_in_any_company() {
    check_chain(&smollm2(), 20, 40);
}

#[test]
fn positions_beyond_one_split_of_attention_keep_their_bits() {
    // splits are cut every 512 positions; one row takes another path through them than many
    let model = smollm2();
    let all = tokens(&model, 600);
    let mut device = device(&model, 2);
    prefill(&mut device, &all[..590], &Want::default()).unwrap();
    let alone = in_passes(&mut device, &all[590..], 1);
    device.rollback(100);
    prefill(&mut device, &all[100..590], &Want::default()).unwrap();
    let together = in_passes(&mut device, &all[590..], 10);
    for row in 0..10 {
        assert_eq!(
            row_bits(&model, &alone, row),
            row_bits(&model, &together, row),
            "row {row}"
        );
    }
}

#[test]
fn a_node_has_the_bits_of_its_branch_read_token_by_token() {
    for model in [
        demo_target(),
        open(&fixture("llama-odd")),
        open(&fixture("qwen3-qknorm")),
    ] {
        let all = tokens(&model, PREFIX + ROWS);
        // a bushy tree of 64 nodes: parents from the tokens themselves
        let parents: Vec<i32> = (0..ROWS as i32)
            .map(|n| (all[n as usize] as i32 % (n + 1)) - 1)
            .collect();
        let tree = TokenTree::new(all[PREFIX..].to_vec(), parents).unwrap();
        let mut device = device(&model, 2);
        prefill(&mut device, &all[..PREFIX], &Want::default()).unwrap();
        let together = device.pass(&tree, &everything()).unwrap();
        for node in 0..tree.len() {
            device.rollback(PREFIX);
            let branch: Vec<u32> = tree.path(node).iter().map(|&n| tree.tokens()[n]).collect();
            let alone = in_passes(&mut device, &branch, 1);
            assert_eq!(
                row_bits(&model, &alone, branch.len() - 1),
                row_bits(&model, &together, node),
                "node {node}"
            );
        }
    }
}

#[test]
fn a_branch_of_the_cache_has_the_bits_of_a_sequence_that_takes_it() {
    for model in [demo_target(), open(&fixture("llama-odd"))] {
        let all = tokens(&model, PREFIX + 40);
        let behind = [0, 1, PREFIX - 1, PREFIX, PREFIX];
        let mut rows = TokenTree::default();
        for i in 0..behind.len() {
            let root = rows.push(None, all[PREFIX + i]);
            let child = rows.push(Some(root), all[PREFIX + 10 + i]);
            rows.push(Some(child), all[PREFIX + 20 + i]);
            rows.push(Some(root), all[PREFIX + 30 + i]);
        }
        let mut device = device(&model, 2);
        prefill(&mut device, &all[..PREFIX], &Want::default()).unwrap();
        // the last root is named by no position: it follows all of them
        let branches = device
            .pass_behind(&rows, &behind[..4], &everything())
            .unwrap();
        for node in 0..rows.len() {
            let path = rows.path(node);
            let before = behind[node / 4];
            device.rollback(before);
            let branch: Vec<u32> = path.iter().map(|&n| rows.tokens()[n]).collect();
            let alone = in_passes(&mut device, &branch, 1);
            assert_eq!(
                row_bits(&model, &alone, branch.len() - 1),
                row_bits(&model, &branches, node),
                "node {node}, {before} positions before its root"
            );
            device.rollback(before);
            prefill(&mut device, &all[before..PREFIX], &Want::default()).unwrap();
        }
        let error = device.pass_behind(&rows, &[3, PREFIX + 1], &Want::default());
        assert_eq!(
            error.unwrap_err().to_string(),
            format!(
                "root 1 of a pass follows {} positions, {PREFIX} are committed",
                PREFIX + 1
            )
        );
    }
}

#[test]
fn an_accepted_path_is_compacted_to_what_plain_decoding_leaves() {
    let model = demo_target();
    let all = tokens(&model, PREFIX + 8);
    let mut device = device(&model, 2);
    // nodes 0 and 3 and 5 and 7 form a path between siblings
    let tree = TokenTree::new(all[PREFIX..].to_vec(), vec![-1, -1, 0, 0, 3, 3, 5, 5]).unwrap();
    prefill(&mut device, &all[..PREFIX], &Want::default()).unwrap();
    device.pass(&tree, &Want::default()).unwrap();
    device.commit(&tree.path(7));
    assert_eq!(device.committed(), PREFIX + 4);
    let after_tree = in_passes(&mut device, &[5], 1);
    device.rollback(PREFIX);
    let path: Vec<u32> = tree.path(7).iter().map(|&n| tree.tokens()[n]).collect();
    prefill(&mut device, &path, &Want::default()).unwrap();
    let plain = in_passes(&mut device, &[5], 1);
    assert_eq!(
        row_bits(&model, &after_tree, 0),
        row_bits(&model, &plain, 0)
    );
}

#[test]
fn rolling_back_to_any_length_forgets_what_came_after() {
    let model = open(&fixture("qwen2-bias"));
    let all = tokens(&model, 40);
    let mut device = device(&model, 2);
    let whole = in_passes(&mut device, &all, 64);
    for len in [0, 1, 15, 16, 17, 31, 39] {
        device.rollback(len);
        let again = in_passes(&mut device, &all[len..], 64);
        for row in 0..again.last_hidden.len() / model.config.hidden_size {
            assert_eq!(
                row_bits(&model, &again, row),
                row_bits(&model, &whole, len + row),
                "{len}"
            );
        }
    }
}
