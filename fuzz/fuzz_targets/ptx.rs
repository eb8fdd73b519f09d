#![no_main]
//! What `cuModuleLoadData` is given: fat binaries, compressed or not, and PTX text, up to kernels
//! that could be launched.

use libfuzzer_sys::fuzz_target;
use softcuda::device::Model;
use softcuda::memory::Memory;
use softcuda::ptx::Module;

mod patch;

const FILES: [&[u8]; 5] = [
    include_bytes!("../../softcuda/tests/driver/fixtures/kernels.ptx"),
    include_bytes!("../../softcuda/tests/driver/fixtures/kernels90.ptx"),
    include_bytes!("../../softcuda/tests/driver/fixtures/plain.fatbin"),
    include_bytes!("../../softcuda/tests/driver/fixtures/lz4.fatbin"),
    include_bytes!("../../softcuda/tests/driver/fixtures/zstd.fatbin"),
];

// Parts of instructions: a text of them gets past the parser more often than bytes do.
#[rustfmt::skip]
const OPCODES: &[&str] = &[
    "mov", "cvt", "cvta", "setp", "set", "selp", "slct", "testp", "lop3", "bfi", "bra", "brx",
    "exit", "trap", "ret", "call", "ld", "st", "atom", "red", "bar", "barrier", "membar", "fence",
    "shfl", "vote", "match", "redux", "elect", "activemask", "prefetch", "nanosleep", "ldmatrix",
    "stmatrix", "movmatrix", "mma", "cp", "mbarrier", "griddepcontrol", "isspacep", "add", "sub",
    "mul", "mad", "madc", "addc", "subc", "fma", "div", "rem", "min", "max", "abs", "neg", "and", "or",
    "xor", "not", "cnot", "shl", "shr", "shf", "popc", "clz", "brev", "bfind", "bfe", "prmt", "sad",
    "dp4a", "dp2a", "mul24", "mad24", "bmsk", "szext", "fns", "vabsdiff4", "rcp", "sqrt", "rsqrt",
    "sin", "ex2", "tanh", "copysign", "createpolicy", ".reg", ".param", ".shared", ".local", ".pragma",
];
#[rustfmt::skip]
const MODIFIERS: &[&str] = &[
    "pred", "b8", "b16", "b32", "b64", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f16",
    "f16x2", "bf16", "bf16x2", "f32", "f64", "tf32", "e4m3x2", "s16x2", "v2", "v4", "v8", "lo", "hi",
    "wide", "cc", "sat", "ftz", "rn", "rz", "rm", "rp", "rni", "rzi", "rna", "relu", "NaN",
    "satfinite", "approx", "full", "eq", "ltu", "nan", "and", "or", "xor", "popc", "to", "sync",
    "aligned", "m8n8", "m16n8k16", "m16n8k32", "m16n8k8", "row", "col", "trans", "x1", "x2", "x4",
    "volatile", "relaxed", "acquire", "release", "acq_rel", "gpu", "cta", "sys", "nc", "cg", "ca",
    "L2::cache_hint", "L1::no_allocate", "add", "cas", "exch", "inc", "min", "max", "noftz", "async",
    "commit_group", "wait_group", "wait_all", "mbarrier", "arrive", "noinc", "init", "test_wait",
    "parity", "expect_tx", "pending_count", "up", "bfly", "idx", "ballot", "any", "all", "l", "r",
    "wrap", "clamp", "shiftamt", "uni", "warp", "cluster", "proxy", "sc", "gl", "finite",
    "launch_dependents", "wait", "branchtargets", "L2", "e4m3", "e5m2", "s8", "global", "shared",
    "local", "const", "param", "fractional", "align 8", "align 3", "b128", "red", "arrive_drop",
];
#[rustfmt::skip]
const OPERANDS: &[&str] = &[
    "%a", "%b", "%c", "%h", "%w", "%v", "%f", "%d", "%q", "%r", "!%q", "_", "0", "1", "-1", "16",
    "255", "0x80000000", "0f3F800000", "0d3FF0000000000000", "-9223372036854775808", "4294967296",
    "L", "T", "p", "s", "g", "f", "%tid.x", "%laneid", "%envreg1", "%clock64", "WARP_SZ", "[%w]",
    "[%a+4]", "[%v-9223372036854775807]", "[g+8]", "[s+16]", "[p]", "[16]", "[g+9223372036854775807]",
    "{%a, %b}", "{%a, %b, %c, %a}", "{%h, %h}", "{%w, %v}", "{_, %a}", "{}", "{%a}", "%a|%q", "%q|%r",
    "%e", "%y", "{%w, %w}", "{%a, %b, %c, %b}", "{%f, %f}", "{_, %f, %f, %f}", "{%h, %h, %h, %h}", "[%e]",
    "(%a)", "(f)", "x<4>", "x[8]", "x[-1]", "x", "{{{%a}}}", "g+1", "%none", "{0, 1}", "-0f7F800000",
];
const BETWEEN: &[&str] = &["", "@%q ", "@!%r ", "L2: ", "{ ", "} ", "T: ", "; "];

fn text(data: &[u8]) -> String {
    let mut text = ".version 9.0\n.target sm_90\n.address_size 64\n.global .align 8 .b8 g[64];\n\
        .func (.param .b32 o) f(.param .b32 i) {\nret;\n}\n\
        .visible .entry k(.param .u64 p, .param .align 16 .b8 s[32]) {\n\
        .reg .b32 %a, %b, %c;\n.reg .b16 %h;\n.reg .b64 %w, %v;\n.reg .f32 %f;\n.reg .f64 %d;\n\
        .reg .b128 %e, %y;\n.reg .pred %q, %r;\nT: .branchtargets L, L;\nL:\n"
        .to_owned();
    let mut bytes = data.iter().map(|&b| usize::from(b));
    while let Some(head) = bytes.next() {
        // few lines begin with more than an opcode
        if head >= 224 {
            text += BETWEEN[head % BETWEEN.len()];
        }
        let Some(opcode) = bytes.next() else { break };
        text += OPCODES[opcode % OPCODES.len()];
        for _ in 0..head % 6 {
            let Some(modifier) = bytes.next() else { break };
            text.push('.');
            text += MODIFIERS[modifier % MODIFIERS.len()];
        }
        for i in 0..head / 6 % 6 {
            let Some(operand) = bytes.next() else { break };
            text += if i == 0 { " " } else { ", " };
            text += OPERANDS[operand % OPERANDS.len()];
        }
        text += ";\n";
    }
    text + "ret;\n}\n"
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let model = Model::named("h100").expect("a model");
    let data = match usize::from(mode) % 8 {
        0 => data.to_vec(),
        file @ 1..=5 => patch::patched(FILES[file - 1], data),
        _ => text(data).into_bytes(),
    };
    let Ok(image) = softcuda::image::read(&data, model) else {
        return;
    };
    let memory = Memory::new(1 << 24);
    let resources = image.resources.as_deref();
    match Module::load(&image.ptx, model, &memory, resources) {
        Ok(module) => {
            for kernel in module.kernels() {
                assert!(kernel.params.len() <= kernel.param_bytes as usize + 1);
                assert!(kernel.registers <= model.max_registers_per_thread);
            }
            module.unload(&memory);
        }
        Err(error) => {
            let lines = image.ptx.lines().count();
            assert!(error.line as usize <= lines + 1, "{error} of {lines}");
        }
    }
    assert_eq!(memory.table().all().len(), 0);
});
