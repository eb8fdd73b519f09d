//! Kernels as an inference engine has them: right, clean under many orders, and as many bytes as
//! can be worked out by hand.

mod common;
#[path = "common/nvcc.rs"]
mod nvcc;

use common::{Device, Param};
use softcuda::exec::Overlap;

const OVERLAPS: [Overlap; 3] = [Overlap::Early, Overlap::Interleaved, Overlap::Late];

#[test]
fn weights_stream_into_tensor_cores_and_the_last_block_adds_up() {
    let ptx = nvcc::ptx("step", "sm_90", &[]);
    let (tiles_m, tiles_k, splits) = (3usize, 16usize, 2usize);
    let (m, k) = (16 * tiles_m, 16 * tiles_k);
    // small integers: sums are exact
    let w = |r: usize, c: usize| ((r * 7 + c * 3) % 9) as f32 - 4.0;
    let x = |r: usize, c: usize| ((r * 5 + c * 11) % 7) as f32 - 3.0;
    let bf16 = |v: f32| half::bf16::from_f32(v).to_bits();
    // a lane's eight values of a tile of A, by the manual's table: (row, column), two neighbours
    // in a register
    let mut tiles = Vec::new();
    for tile in 0..tiles_m {
        for step in 0..tiles_k {
            for lane in 0..32 {
                for register in 0..4 {
                    for half in 0..2 {
                        let row = lane / 4 + register % 2 * 8;
                        let column = lane % 4 * 2 + half + register / 2 * 8;
                        tiles.push(bf16(w(16 * tile + row, 16 * step + column)));
                    }
                }
            }
        }
    }
    let rows: Vec<u16> = (0..8 * k).map(|i| bf16(x(i / k, i % k))).collect();
    for seed in 0..100 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        device.options.overlap = OVERLAPS[seed as usize % 3];
        let module = device.load(&ptx);
        let weights = device.upload(&tiles);
        device.memory.label(weights, "weights").expect("a label");
        let partial = device.empty((4 * 128 * tiles_m * splits) as u64);
        let counters = device.upload(&vec![0u32; tiles_m]);
        let input = device.upload(&rows);
        let outs = [
            device.empty((4 * 8 * m) as u64),
            device.empty((4 * 8 * m) as u64),
        ];
        // twice, the second as programmatic successor of the first: counters are back at zero, and
        // the partial sums are not touched before the wait
        let grids = outs.map(|out| {
            let params = [
                Param::Ptr(out),
                Param::Ptr(partial),
                Param::Ptr(counters),
                Param::Ptr(weights),
                Param::Ptr(input),
                Param::U32(tiles_k as u32),
            ];
            let mut grid = device.grid(&module, "stream", 1, 128, &params);
            grid.grid = [tiles_m as u32, splits as u32, 1];
            grid.programmatic = out != outs[0];
            grid
        });
        let counts = device.run(&grids);
        let counts = counts.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        for out in outs {
            let found: Vec<f32> = device.download(out, 8 * m);
            for n in 0..8 {
                for row in 0..m {
                    let sum: f32 = (0..k).map(|i| w(row, i) * x(n, i)).sum();
                    assert_eq!(found[n * m + row], sum, "seed {seed} {n} {row}");
                }
            }
        }
        let traffic = &counts[0].memory["weights"];
        assert_eq!(traffic.bytes_read, 2 * (m * k) as u64);
        assert_eq!(traffic.sectors, (m * k / 16) as u64);
        assert_eq!(traffic.unique_sectors, traffic.sectors);
        let products = (tiles_m * tiles_k) as u64;
        assert_eq!(counts[0].mma["m16n8k16.f32.bf16.bf16.f32"], products);
    }
}

#[test]
fn a_row_is_normalised() {
    let ptx = nvcc::ptx("step", "sm_90", &[]);
    let n = 256usize;
    let data: Vec<f32> = (0..n)
        .map(|i| ((i * 37) % 101) as f32 / 8.0 - 9.0)
        .collect();
    let most = data.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = data.iter().map(|v| f64::from(v - most).exp()).sum();
    let square: f64 = data.iter().map(|v| f64::from(*v).powi(2)).sum();
    for seed in 0..100 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        device.options.approx_seed = (seed > 0).then_some(seed);
        let module = device.load(&ptx);
        let (out, norm) = (device.empty(4 * n as u64), device.empty(4));
        let params = [
            Param::Ptr(out),
            Param::Ptr(norm),
            Param::Ptr(device.upload(&data)),
            Param::U32(n as u32),
        ];
        let grid = device.grid(&module, "row", 1, n as u32, &params);
        device.run(&[grid]).expect("no violation");
        for (v, found) in data.iter().zip(device.download::<f32>(out, n)) {
            let e = f64::from(v - most).exp() / sum;
            assert!(
                (f64::from(found) - e).abs() < 4e-6 * e.max(1e-9),
                "{found:e} {e:e}"
            );
        }
        let e = 1.0 / (square / n as f64 + 1e-5).sqrt();
        let found = f64::from(device.download::<f32>(norm, 1)[0]);
        assert!((found - e).abs() < 1e-6 * e, "{found:e} {e:e}");
    }
}

#[test]
fn blocks_meet_by_cooperative_groups_and_by_a_counter() {
    for arch in ["sm_80", "sm_90"] {
        let ptx = nvcc::ptx("step", arch, &[]);
        let (blocks, rounds) = (5u32, 3u32);
        for seed in 0..100 {
            let mut device = Device::tiny();
            device.options.seed = seed;
            let module = device.load(&ptx);
            let out = device.empty(4 * u64::from(blocks));
            let sums = device.upload(&vec![0u32; (2 * rounds + blocks) as usize]);
            let params = [
                Param::Ptr(out),
                Param::Ptr(sums),
                Param::Ptr(device.upload(&[0u32])),
                Param::U32(rounds),
            ];
            let mut grid = device.grid(&module, "meet", blocks, 64, &params);
            grid.cooperative = true;
            let before = device.memory.table().all().len();
            let result = device.run(&[grid.clone()]);
            let counts = result.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
            let sum = blocks * (blocks + 1) / 2;
            let found: Vec<u32> = device.download(out, blocks as usize);
            assert_eq!(found, vec![sum * 1000 + sum; blocks as usize]);
            // the memory that the blocks count in is the driver's, and gone afterwards
            assert!(counts[0].memory.contains_key("workspace of the grid"));
            assert_eq!(device.memory.table().all().len(), before);
            if seed == 0 {
                // a grid that is not cooperative has none
                grid.cooperative = false;
                let violation = device.run(&[grid]).expect_err("a violation");
                println!("{violation}");
            }
        }
    }
}

#[test]
fn a_tile_is_copied_and_turned() {
    let ptx = nvcc::ptx("step", "sm_90", &[]);
    let data: Vec<u16> = (0..128).collect();
    for seed in 0..100 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        let module = device.load(&ptx);
        let out = device.empty(4 * 64);
        let params = [Param::Ptr(out), Param::Ptr(device.upload(&data))];
        let grid = device.grid(&module, "turn", 1, 32, &params);
        device.run(&[grid]).expect("no violation");
        let found: Vec<u16> = device.download(out, 128);
        for lane in 0..32 {
            for half in 0..2 {
                let (row, column) = (lane / 4, lane % 4 * 2 + half);
                assert_eq!(found[2 * lane + half] as usize, 8 * column + row);
                assert_eq!(found[64 + 2 * lane + half] as usize, 64 + 8 * row + column);
            }
        }
    }
}
