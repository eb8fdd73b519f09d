//! kernels/head.cu

use crate::common::{
    Arg, Device, LEVELS, ROWS, SEEDS, bits, block_sum, chain, moved_once, numbers,
};
use gavel::device::cuda::layout::MAX_ROWS;

/// What lies in memory that no kernel should write.
const UNTOUCHED: f32 = 123.0;
const EPS: f32 = 1e-5;
/// What the hidden states are multiplied by.
const GAIN_SCALE: f32 = 4.0;

fn check_hidden(hidden: usize, partials: usize, rows: usize, level: u32, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ (rows * hidden) as u64);
    let bucket = (rows + 3).min(MAX_ROWS);
    let x = numbers(&mut random, rows * hidden);
    let gain = numbers(&mut random, hidden);
    let squares: Vec<f32> = (0..partials * MAX_ROWS).map(|_| random.f32()).collect();
    let device = Device::new("head", level, seed);
    let pass = device.upload("pass", &[chain(&vec![0; rows], 0)]);
    let (x_at, gain_at) = (device.upload("x", &x), device.upload("gain", &gain));
    let squares_at = device.upload("squares", &squares);
    let out = device.upload("out", &vec![UNTOUCHED; bucket * hidden]);
    let args = [
        Arg::Ptr(pass),
        Arg::Ptr(x_at),
        Arg::Ptr(gain_at),
        Arg::Ptr(squares_at),
        Arg::Ptr(out),
        Arg::I32(hidden as i32),
        Arg::I32(partials as i32),
        Arg::F32(EPS),
        Arg::F32(GAIN_SCALE),
    ];
    let counts = device.run(device.grid("hidden", [bucket, 1, 1], 256, 0, &args));

    let mut expected = vec![UNTOUCHED; bucket * hidden];
    for row in 0..rows {
        let sum: f32 = (0..partials).fold(0.0, |sum, p| sum + squares[p * MAX_ROWS + row]);
        let scale = 1.0 / (sum / hidden as f32 + EPS).sqrt();
        for k in 0..hidden {
            expected[row * hidden + k] = x[row * hidden + k] * scale * gain[k] * GAIN_SCALE;
        }
    }
    assert_eq!(bits(&device.read(out, bucket * hidden)), bits(&expected));
    moved_once(&counts, "x", rows * hidden * 4, 0);
    moved_once(&counts, "out", 0, rows * hidden * 4);
    assert_eq!(counts.memory["gain"].bytes_read, (4 * rows * hidden) as u64);
    let read = counts.memory["squares"].bytes_read;
    assert_eq!(read, (4 * rows * partials) as u64);
}

#[test]
fn hidden_states_are_normed() {
    for level in LEVELS {
        for rows in ROWS {
            for seed in 0..SEEDS {
                let hidden = [208, 1040, 16][seed as usize % 3];
                check_hidden(hidden, [1, 5, 64][seed as usize % 3], rows, level, seed);
            }
        }
    }
}

fn check_judge(hidden: usize, units: usize, rows: usize, level: u32, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ (rows * hidden) as u64);
    let bucket = (rows + 3).min(MAX_ROWS);
    let x = numbers(&mut random, rows * hidden);
    let w = numbers(&mut random, units * hidden);
    let b = numbers(&mut random, units);
    let device = Device::new("head", level, seed);
    let pass = device.upload("pass", &[chain(&vec![0; rows], 0)]);
    let (x_at, w_at, b_at) = (
        device.upload("x", &x),
        device.upload("w", &w),
        device.upload("b", &b),
    );
    let scores = device.upload("scores", &vec![UNTOUCHED; units * MAX_ROWS]);
    let args = [
        Arg::Ptr(pass),
        Arg::Ptr(x_at),
        Arg::Ptr(w_at),
        Arg::Ptr(b_at),
        Arg::Ptr(scores),
        Arg::I32(hidden as i32),
    ];
    let counts = device.run(device.grid("judge", [bucket, units, 1], 256, 0, &args));

    let mut expected = vec![UNTOUCHED; units * MAX_ROWS];
    for row in 0..rows {
        let features = &x[row * hidden..][..hidden];
        for unit in 0..units {
            let weights = &w[unit * hidden..][..hidden];
            let of_thread: Vec<f32> = (0..256)
                .map(|thread| {
                    let mut sum = 0f32;
                    for first in (4 * thread..hidden).step_by(1024) {
                        for k in first..first + 4 {
                            sum = weights[k].mul_add(features[k], sum);
                        }
                    }
                    sum
                })
                .collect();
            expected[unit * MAX_ROWS + row] = block_sum(&of_thread) + b[unit];
        }
    }
    let found: Vec<f32> = device.read(scores, units * MAX_ROWS);
    assert_eq!(bits(&found), bits(&expected));
    let bytes = (4 * rows * units * hidden) as u64;
    assert_eq!(counts.memory["x"].bytes_read, bytes);
    assert_eq!(counts.memory["w"].bytes_read, bytes);
    assert_eq!(counts.memory["b"].bytes_read, (4 * rows * units) as u64);
    let written = counts.memory["scores"].bytes_written;
    assert_eq!(written, (4 * rows * units) as u64);
}

#[test]
fn a_judge_scores_every_row() {
    for level in LEVELS {
        for rows in ROWS {
            for seed in 0..SEEDS {
                let hidden = [208, 1040, 16][seed as usize % 3];
                check_judge(hidden, [1, 1, 5][seed as usize % 3], rows, level, seed);
            }
        }
    }
}
