//! kernels/pack.cu

use crate::common::{Arg, Device, LEVELS, SEEDS, fragments, moved_once, numbers, round};
use gavel::device::cuda::layout::{PAIR, TILE};
use half::{bf16, f16};

/// Rows of tiles and pairs of tiles: one, less than a block, more than a block.
const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 5), (7, 1), (1, 9), (5, 18)];

/// Packs `rows`, of which `size` bytes are an element, and gives the tiles.
fn pack(kernel: &str, level: u32, seed: u64, shape: (usize, usize), rows: &[u8]) -> Vec<u16> {
    let (tiles, pairs) = shape;
    let device = Device::new("pack", level, seed);
    let from = device.upload("rows", rows);
    let elements = tiles * TILE * pairs * PAIR;
    let to = device.empty("tiles", 2 * elements);
    let units = tiles * pairs;
    let args = [
        Arg::Ptr(from),
        Arg::Ptr(to),
        Arg::I32(pairs as i32),
        Arg::I32(units as i32),
    ];
    let grid = device.grid(kernel, [units.div_ceil(8), 1, 1], 256, 0, &args);
    let counts = device.run(grid);
    let traffic = &counts.memory["rows"];
    assert_eq!(traffic.bytes_read, rows.len() as u64);
    assert_eq!(traffic.unique_sectors, rows.len() as u64 / 32);
    moved_once(&counts, "tiles", 0, 2 * elements);
    if kernel != "pack_f32_rows" {
        moved_once(&counts, "rows", rows.len(), 0);
    }
    device.read(to, elements)
}

#[test]
fn tiles_hold_the_rows_rounded_to_f16() {
    let mut random = fastrand::Rng::with_seed(1);
    for level in LEVELS {
        for (shape, seed) in SHAPES.iter().cycle().zip(0..SEEDS) {
            let (tiles, pairs) = *shape;
            let columns = pairs * PAIR;
            let mut values = numbers(&mut random, tiles * TILE * columns);
            // halfway cases, the ends of both ranges, what rounds up to infinity, no number
            let special = [
                f32::from_bits(0x3f80_1000),
                f32::from_bits(0x3f80_3000),
                f32::MIN_POSITIVE,
                1e-40,
                -0.0,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                65504.0,
                65520.0,
                6e-8,
                2f32.powi(-25),
                3.0 * 2f32.powi(-25),
            ];
            for (value, special) in values.iter_mut().step_by(7).zip(special) {
                *value = special;
            }
            let expect = |bits: &[u16]| fragments(tiles, pairs, |row, k| bits[row * columns + k]);

            let brains: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            let of: Vec<u16> = brains.iter().map(|v| round(v.to_f32())).collect();
            let bits: Vec<u16> = brains.iter().map(|v| v.to_bits()).collect();
            let rows = bytemuck::cast_slice(&bits);
            let found = pack("pack_bf16_rows", level, seed, *shape, rows);
            assert_eq!(found, expect(&of), "bf16 {shape:?}");

            let rows = bytemuck::cast_slice(&values);
            let of: Vec<u16> = values.iter().map(|&v| round(v)).collect();
            let found = pack("pack_f32_rows", level, seed, *shape, rows);
            assert_eq!(found, expect(&of), "f32 {shape:?}");

            let rows = bytemuck::cast_slice(&of);
            let found = pack("pack_f16_rows", level, seed, *shape, rows);
            assert_eq!(found, expect(&of), "f16 {shape:?}");
        }
    }
}

#[test]
fn what_is_no_number_stays_so() {
    for level in LEVELS {
        let values = vec![f32::NAN; TILE * PAIR];
        let rows = bytemuck::cast_slice(&values);
        let found = pack("pack_f32_rows", level, 0, (1, 1), rows);
        assert!(found.iter().all(|&bits| f16::from_bits(bits).is_nan()));
        for (kernel, nan) in [
            ("pack_bf16_rows", bf16::NAN.to_bits()),
            ("pack_f16_rows", f16::NAN.to_bits()),
        ] {
            let bits = vec![nan; TILE * PAIR];
            let found = pack(kernel, level, 0, (1, 1), bytemuck::cast_slice(&bits));
            assert!(found.iter().all(|&bits| f16::from_bits(bits).is_nan()));
        }
    }
}

/// What pack.cu says of them: a bf16 from 2^-17 to 65,280 is what it was.
#[test]
fn weights_in_bf16_are_what_they_were() {
    let exact = |bits: u16| {
        let size = bf16::from_bits(bits & 0x7fff).to_f32();
        (2f32.powi(-17)..=65_280.0).contains(&size)
    };
    let all: Vec<u16> = (0..=u16::MAX).filter(|&bits| exact(bits)).collect();
    let mut rows = all.clone();
    rows.resize(all.len().next_multiple_of(TILE * PAIR), 0);
    let shape = (rows.len() / (TILE * PAIR), 1);
    let found = pack(
        "pack_bf16_rows",
        LEVELS[0],
        0,
        shape,
        bytemuck::cast_slice(&rows),
    );
    let expected = fragments(shape.0, 1, |row, k| rows[row * PAIR + k]);
    for (found, expected) in found.iter().zip(expected) {
        let (found, expected) = (f16::from_bits(*found), bf16::from_bits(expected));
        assert_eq!(found.to_f32(), expected.to_f32());
    }
}
