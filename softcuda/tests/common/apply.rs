//! Runs one instruction on rows of operands, and compares with the host.
#![allow(dead_code)]

use super::{Device, Param, kernel};

pub fn suffix(bytes: usize) -> &'static str {
    match bytes {
        1 => "b8",
        2 => "b16",
        4 => "b32",
        _ => "b64",
    }
}

/// Runs `op` once for each row of `inputs` (bits of each operand); gives bits of the results.
/// `types` are the bytes of the result and of the operands.
pub fn apply(op: &str, types: &[usize], inputs: &[Vec<u64>]) -> Vec<u64> {
    apply_perturbed(op, types, inputs, None)
}

pub fn apply_perturbed(
    op: &str,
    types: &[usize],
    inputs: &[Vec<u64>],
    approx_seed: Option<u64>,
) -> Vec<u64> {
    let mut device = Device::tiny();
    device.options.approx_seed = approx_seed;
    let count = inputs.len();
    let reg = |bytes: usize| if bytes == 1 { "b16" } else { suffix(bytes) };
    let mut declarations = String::new();
    let mut body = String::new();
    let mut names = vec!["%d".to_owned()];
    declarations += &format!(".reg .{} %d;\n.reg .pred %pr, %pq;\n", reg(types[0]));
    for (i, &bytes) in types[1..].iter().enumerate() {
        declarations += &format!(".reg .{} %s{i};\n", reg(bytes));
        body += &format!(
            "mad.lo.u64 %a, %t64, {bytes}, %p{};\nld.global.{} %s{i}, [%a];\n",
            i + 1,
            suffix(bytes)
        );
        names.push(format!("%s{i}"));
    }
    if op.contains('$') {
        // a text of its own
        body += op.trim_start_matches('$');
    } else {
        body += &format!("{op} {};\n", names.join(", "));
    }
    body += &format!(
        "mad.lo.u64 %a, %t64, {}, %p0;\nst.global.{} [%a], %d;\n",
        types[0],
        suffix(types[0])
    );
    let module = device.load(&kernel(types.len(), &declarations, &body));
    let mut params = vec![Param::Ptr(device.empty((count * types[0]) as u64))];
    for (i, &bytes) in types[1..].iter().enumerate() {
        let mut data = Vec::new();
        for row in inputs {
            data.extend_from_slice(&row[i].to_le_bytes()[..bytes]);
        }
        params.push(Param::Ptr(device.upload(&data)));
    }
    let mut start = 0;
    let mut launches = Vec::new();
    while start < count {
        let block = (count - start).min(1024);
        let moved: Vec<Param> = params
            .iter()
            .zip(types)
            .map(|(p, bytes)| match p {
                Param::Ptr(p) => Param::Ptr(p + (start * bytes) as u64),
                other => *other,
            })
            .collect();
        launches.push(device.grid(&module, "k", 1, block as u32, &moved));
        start += block;
    }
    device.run(&launches).expect("no violation");
    let Param::Ptr(out) = params[0] else {
        unreachable!()
    };
    let data: Vec<u8> = device.download(out, count * types[0]);
    data.chunks(types[0])
        .map(|chunk| {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(bytes)
        })
        .collect()
}

/// Floats at which rules change, and some between.
pub fn f32_values() -> Vec<f32> {
    let mut values = vec![
        0.0,
        1.0,
        1.5,
        0.1,
        3.402_823_5e38,
        f32::MIN_POSITIVE,
        1e-45,
        1.1e-38,
        f32::INFINITY,
        f32::NAN,
        1.0 + f32::EPSILON,
        8_388_609.5,
        2_147_483_648.0,
        4_294_967_296.0,
        0.5,
        2.5,
        3.5,
        65504.0,
        65520.0,
        5.96e-8,
        6.1e-5,
        448.0,
        464.0,
        1e10,
        1e-20,
        f32::from_bits(0x7f80_0001),
    ];
    values.extend(values.clone().iter().map(|v| -v));
    let mut x = 0x1234_5678u32;
    for _ in 0..60 {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        values.push(f32::from_bits(x));
        values.push((x >> 8) as f32 / 65536.0);
    }
    values
}

pub fn pairs(values: &[u64]) -> Vec<Vec<u64>> {
    let mut rows = Vec::new();
    for &a in values {
        for &b in values {
            rows.push(vec![a, b]);
        }
    }
    rows
}

pub fn triples(values: &[u64]) -> Vec<Vec<u64>> {
    let mut rows = Vec::new();
    for (i, &a) in values.iter().enumerate() {
        for (j, &b) in values.iter().enumerate().skip(i % 3).step_by(3) {
            for &c in values.iter().skip((i + j) % 7).step_by(7) {
                rows.push(vec![a, b, c]);
            }
        }
    }
    rows
}

pub fn f32_bits() -> Vec<u64> {
    f32_values().iter().map(|v| v.to_bits().into()).collect()
}

pub fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

pub fn canonical(x: f32) -> u64 {
    if x.is_nan() {
        0x7fff_ffff
    } else {
        x.to_bits().into()
    }
}

pub fn check(op: &str, types: &[usize], rows: &[Vec<u64>], expected: impl Fn(&[u64]) -> u64) {
    let found = apply(op, types, rows);
    for (row, found) in rows.iter().zip(found) {
        let expected = expected(row);
        assert_eq!(
            found, expected,
            "{op} of {row:x?}: found {found:#x}, expected {expected:#x}"
        );
    }
}

pub fn integers() -> Vec<u64> {
    let mut values = vec![
        0,
        1,
        2,
        3,
        31,
        32,
        33,
        63,
        64,
        65,
        255,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        1 << 63,
        u64::MAX,
        u64::MAX - 1,
    ];
    let mut x = 88_172_645_463_325_252u64;
    for _ in 0..30 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        values.push(x);
    }
    values
}
