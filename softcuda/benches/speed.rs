//! Warp instructions a second with all checks on. The project asks, for one core: 20 million of
//! plain arithmetic, 5 million coalesced global loads of 16 bytes a lane, 5 million shared loads, 1
//! million `mma.m16n8k16`. Blocks run on all cores; one block here keeps it to one.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use softcuda::device::Model;
use softcuda::exec::{Accumulate, Launch, Options, launch};
use softcuda::memory::Memory;
use softcuda::ptx::Module;
use std::sync::Arc;

/// A kernel that repeats `body`, which counts as `per_round` instructions, 64 times a round.
fn ptx(declarations: &str, before: &str, body: &str, after: &str) -> String {
    let unrolled = body.repeat(64);
    format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p, .param \
         .u32 rounds)\n{{\n.reg .b64 %p, %a;\n.reg .b32 %t, %i, %n;\n.reg .pred %q;\n\
         {declarations}\nld.param.u64 %p, [p];\nld.param.u32 %n, [rounds];\n\
         mov.u32 %t, %tid.x;\nmov.u32 %i, 0;\n{before}\nL:\n{unrolled}\nadd.u32 %i, %i, 1;\n\
         setp.lt.u32 %q, %i, %n;\n@%q bra L;\n{after}\nret;\n}}\n"
    )
}

fn bench(c: &mut Criterion, name: &str, text: &str, per_body: u64) {
    bench_under(c, name, text, per_body, &Options::default());
}

fn bench_under(c: &mut Criterion, name: &str, text: &str, per_body: u64, options: &Options) {
    let model = Model::named("h100").expect("a model");
    let memory = Memory::new(1 << 30);
    let module = Module::load(text, model, &memory, None).expect("it loads");
    let bytes = 1 << 20;
    let data = memory.alloc(bytes, 256).expect("memory");
    memory
        .fill(data, 0x3f80_0000, 4, bytes / 4)
        .expect("a fill");
    let (rounds, warps) = (200u32, 4u64);
    let mut params = data.to_le_bytes().to_vec();
    params.extend(rounds.to_le_bytes());
    let grid = Launch {
        kernel: Arc::clone(module.kernel("k").expect("the kernel")),
        grid: [1, 1, 1],
        block: [32 * warps as u32, 1, 1],
        dynamic_shared: 0,
        dynamic_shared_limit: 0,
        params,
        cooperative: false,
        programmatic: false,
        concurrent: false,
        transfers: Vec::new(),
    };
    let mut group = c.benchmark_group("warp instructions");
    group.sample_size(20);
    group.measurement_time(std::time::Duration::from_secs(2));
    group.warm_up_time(std::time::Duration::from_millis(500));
    let count = 64 * u64::from(rounds) * warps * per_body;
    group.throughput(Throughput::Elements(count));
    group.bench_function(name, |b| {
        b.iter(|| launch(&memory, model, options, std::slice::from_ref(&grid)).expect("it runs"));
    });
    group.finish();
}

/// Blocks that hand over to the last of them: a store, a fence, a ticket, a fence. `blocks` of them
/// know of each other in a chain.
const TICKETS: &str = ".version 9.0
.target sm_90
.address_size 64
.visible .entry tickets(.param .u64 p)
{
.reg .b64 %p, %a;
.reg .b32 %t, %b, %n, %v, %sum;
.reg .pred %q;
ld.param.u64 %p, [p];
mov.u32 %t, %tid.x;
setp.ne.u32 %q, %t, 0;
@%q bra DONE;
mov.u32 %b, %ctaid.x;
mov.u32 %n, %nctaid.x;
mad.wide.u32 %a, %b, 4, %p;
st.global.u32 [%a+4], %b;
membar.gl;
atom.global.add.u32 %v, [%p], 1;
membar.gl;
add.u32 %v, %v, 1;
setp.ne.u32 %q, %v, %n;
@%q bra DONE;
mov.u32 %sum, 0;
mov.u32 %b, 0;
LOOP:
mad.wide.u32 %a, %b, 4, %p;
ld.global.u32 %v, [%a+4];
add.u32 %sum, %sum, %v;
add.u32 %b, %b, 1;
setp.lt.u32 %q, %b, %n;
@%q bra LOOP;
st.global.u32 [%p], 0;
DONE:
ret;
}
";

fn fences(c: &mut Criterion) {
    let model = Model::named("h100").expect("a model");
    let memory = Memory::new(1 << 30);
    let module = Module::load(TICKETS, model, &memory, None).expect("it loads");
    let most = 8192u64;
    let data = memory.alloc(4 * (most + 1), 256).expect("memory");
    memory.fill(data, 0, 4, most + 1).expect("a fill");
    let mut group = c.benchmark_group("fences");
    group.sample_size(10);
    group.measurement_time(std::time::Duration::from_secs(2));
    group.warm_up_time(std::time::Duration::from_millis(500));
    for blocks in [1024, most] {
        let grid = Launch {
            kernel: Arc::clone(module.kernel("tickets").expect("the kernel")),
            grid: [blocks as u32, 1, 1],
            block: [32, 1, 1],
            dynamic_shared: 0,
            dynamic_shared_limit: 0,
            params: data.to_le_bytes().to_vec(),
            cooperative: false,
            programmatic: false,
            concurrent: false,
            transfers: Vec::new(),
        };
        let options = Options::default();
        group.throughput(Throughput::Elements(2 * blocks));
        group.bench_function(format!("{blocks} blocks in a chain"), |b| {
            let grids = std::slice::from_ref(&grid);
            b.iter(|| launch(&memory, model, &options, grids).expect("it runs"));
        });
    }
    group.finish();
}

fn speed(c: &mut Criterion) {
    let float = ".reg .b32 %f<8>;";
    let set = "mov.b32 %f0, 0f3F800000;\nmov.b32 %f1, 0f3F000000;\nmov.b32 %f2, 0f00000000;\n";
    let keep = "mad.wide.u32 %a, %t, 4, %p;\nst.global.b32 [%a+524288], %f2;";
    let body = "fma.rn.f32 %f2, %f0, %f1, %f2;\nadd.f32 %f3, %f2, %f1;\n\
                mul.f32 %f4, %f3, %f0;\nmax.f32 %f2, %f4, %f2;\n";
    bench(c, "arithmetic f32", &ptx(float, set, body, keep), 4);
    let whole = "mov.b32 %f0, 3;\nmov.b32 %f1, 5;\nmov.b32 %f2, %t;\n";
    let body = "mad.lo.s32 %f2, %f0, %f1, %f2;\nxor.b32 %f3, %f2, %f1;\n\
                shl.b32 %f4, %f3, 3;\nadd.s32 %f2, %f4, %f2;\n";
    bench(c, "arithmetic integer", &ptx(float, whole, body, keep), 4);
    let wide = ".reg .b64 %w<8>;\n.reg .b32 %f<8>;";
    let body = "mul.wide.u32 %w1, %t, 16;\nadd.s64 %w2, %w1, %p;\nand.b64 %w3, %w2, 4095;\n\
                cvt.u32.u64 %f2, %w3;\n";
    bench(c, "arithmetic 64 bits", &ptx(wide, "", body, keep), 4);
    let before = "mad.wide.u32 %a, %t, 16, %p;\nmov.b32 %f2, 0;";
    let body = "ld.global.v4.b32 {%f0, %f1, %f2, %f3}, [%a];\n";
    bench(
        c,
        "global loads of 16 bytes",
        &ptx(float, before, body, keep),
        1,
    );
    // with an address that moves, as in a kernel that reads weights
    let before = "mad.wide.u32 %a, %t, 16, %p;\nmov.b32 %f2, 0;";
    let body = "ld.global.nc.v4.b32 {%f0, %f1, %f2, %f3}, [%a];\nxor.b64 %a, %a, 65536;\n";
    bench(
        c,
        "global loads and addresses",
        &ptx(float, before, body, keep),
        2,
    );
    let shared = ".reg .b32 %f<8>, %s;\n.shared .align 16 .b8 buffer[16384];";
    let before = "mov.u32 %s, buffer;\nmad.lo.u32 %s, %t, 4, %s;\nst.shared.b32 [%s], %t;\n";
    let body = "ld.shared.b32 %f2, [%s];\n";
    bench(c, "shared loads", &ptx(shared, before, body, keep), 1);
    // with the commit and the wait that each needs, which do not count
    let shared = ".reg .b32 %f<8>, %s;\n.shared .align 16 .b8 buffer[2048];";
    let before = "mov.u32 %s, buffer;\nmad.lo.u32 %s, %t, 16, %s;\nmad.wide.u32 %a, %t, 16, %p;\n\
                  mov.b32 %f2, 0;";
    let body = "cp.async.cg.shared.global [%s], [%a], 16;\ncp.async.commit_group;\n\
                cp.async.wait_group 0;\n";
    bench(
        c,
        "cp.async of 16 bytes",
        &ptx(shared, before, body, keep),
        1,
    );
    let mma = ".reg .b32 %f<16>;";
    let before: String = (0..16).map(|i| format!("mov.b32 %f{i}, 0;\n")).collect();
    let text = |format: &str| {
        let body = format!(
            "mma.sync.aligned.m16n8k16.row.col.f32.{format}.{format}.f32 {{%f0, %f1, %f2, %f3}}, \
             {{%f4, %f5, %f6, %f7}}, {{%f8, %f9}}, {{%f0, %f1, %f2, %f3}};\n"
        );
        ptx(mma, &before, &body, keep)
    };
    bench(c, "mma.m16n8k16 of bf16", &text("bf16"), 1);
    let text = text("f16");
    bench(c, "mma.m16n8k16 of f16", &text, 1);
    let groups = Options {
        accumulate: Accumulate::Groups8,
        ..Options::default()
    };
    bench_under(c, "mma.m16n8k16 of f16 in groups of 8", &text, 1, &groups);
}

criterion_group!(benches, speed, fences);
criterion_main!(benches);
