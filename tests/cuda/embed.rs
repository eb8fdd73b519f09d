//! kernels/embed.cu

use crate::common::{
    Arg, Device, LEVELS, ROWS, SEEDS, b_order, bits, block_sum, chain, fragments, moved_once,
    numbers, round,
};
use gavel::device::cuda::layout::{MAX_ROWS, PAIR, activation_bytes, pairs};
use half::f16;

/// Rows of the vocabulary.
const VOCAB: usize = 301;
/// What lies in memory that no kernel should write.
const UNTOUCHED: f32 = 123.0;

/// The sum of squares of a row, in the order that embed.cu states.
fn sum_of_squares(row: &[f32]) -> f32 {
    let of_thread: Vec<f32> = (0..256)
        .map(|thread| {
            let t = thread % 4;
            let mut sum = 0f32;
            for pair in (thread / 4..pairs(row.len())).step_by(64) {
                for eight in 0..4 {
                    let feature = pair * PAIR + eight * 8 + t * 2;
                    for value in row.iter().skip(feature).take(2) {
                        sum = value.mul_add(*value, sum);
                    }
                }
            }
            sum
        })
        .collect();
    block_sum(&of_thread)
}

fn check(hidden: usize, rows: usize, level: u32, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ (rows * hidden) as u64);
    let tokens: Vec<i32> = (0..rows)
        .map(|row| match row {
            0 => VOCAB as i32 - 1,
            _ => random.i32(0..VOCAB as i32),
        })
        .collect();
    let values = numbers(&mut random, VOCAB * hidden);
    let embedding = |token: usize, k: usize| f16::from_f32(values[token * hidden + k]).to_f32();
    let gain = numbers(&mut random, hidden);
    let table = fragments(VOCAB.div_ceil(16), pairs(hidden), |row, k| {
        match row < VOCAB && k < hidden {
            true => round(values[row * hidden + k]),
            false => 0,
        }
    });

    let device = Device::new("embed", level, seed);
    let pass = device.upload("pass", &[chain(&tokens, 5)]);
    let table = device.upload("table", &table);
    let gain_at = device.upload("gain", &gain);
    // of a larger bucket: the blocks without a row do nothing
    let bucket = (rows + 3).min(MAX_ROWS);
    let x = device.upload("x", &vec![UNTOUCHED; bucket * hidden]);
    let normed_bytes = activation_bytes(bucket, hidden);
    let normed = device.upload("normed", &vec![0u16; normed_bytes / 2]);
    let squares = device.upload("squares", &[UNTOUCHED; MAX_ROWS]);
    let began = device.upload("began", &[0u64]);
    let args = [
        Arg::Ptr(pass),
        Arg::Ptr(table),
        Arg::Ptr(gain_at),
        Arg::Ptr(x),
        Arg::Ptr(normed),
        Arg::Ptr(squares),
        Arg::Ptr(began),
        Arg::I32(hidden as i32),
        Arg::I32(pairs(hidden) as i32),
    ];
    let counts = device.run(device.grid("embed", [bucket, 1, 1], 256, 0, &args));
    assert_ne!(device.read::<u64>(began, 1), [0]);

    let mut expected = vec![UNTOUCHED; bucket * hidden];
    let mut sums = [UNTOUCHED; MAX_ROWS];
    for (row, &token) in tokens.iter().enumerate() {
        let of_row = &mut expected[row * hidden..][..hidden];
        for (k, value) in of_row.iter_mut().enumerate() {
            *value = embedding(token as usize, k);
        }
        sums[row] = sum_of_squares(of_row);
        let exact: f64 = of_row.iter().map(|&e| f64::from(e).powi(2)).sum();
        assert!((f64::from(sums[row]) / exact - 1.0).abs() < 1e-5);
    }
    assert_eq!(bits(&device.read(x, bucket * hidden)), bits(&expected));
    let b = b_order(rows, hidden, |row, k| {
        round(expected[row * hidden + k] * gain[k])
    });
    let found: Vec<u16> = device.read(normed, normed_bytes / 2);
    assert_eq!(found[..b.len()], b);
    assert!(found[b.len()..].iter().all(|&bits| bits == 0));
    assert_eq!(bits(&device.read(squares, MAX_ROWS)), bits(&sums));

    moved_once(&counts, "x", 0, rows * hidden * 4);
    moved_once(&counts, "normed", 0, rows * pairs(hidden) * 64);
    assert_eq!(counts.memory["squares"].bytes_written, 4 * rows as u64);
    assert_eq!(counts.memory["gain"].bytes_read, (4 * rows * hidden) as u64);
    let read = &counts.memory["table"];
    assert_eq!(read.bytes_read, (128 * pairs(hidden) * rows) as u64);
    assert_eq!(read.sectors, (4 * pairs(hidden) * rows) as u64);
}

#[test]
fn rows_are_the_embeddings_of_their_tokens() {
    for level in LEVELS {
        for rows in ROWS {
            for seed in 0..SEEDS {
                // whole pairs or not
                check([208, 128, 16][seed as usize % 3], rows, level, seed);
            }
        }
    }
}

#[test]
fn wide_rows_take_a_thread_several_pairs() {
    for level in LEVELS {
        for seed in 0..SEEDS {
            check(2048 + 16 * 5, 3, level, seed);
        }
    }
}
