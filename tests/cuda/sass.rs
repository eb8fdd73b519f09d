//! The machine code of linear's products: how it loads, how far ahead, and what it costs.

use crate::common::{LEVELS, built, resources};
use crate::toolkit::{Instruction, basic_blocks, disassemble, inner_loops};
use gavel::device::cuda::linear::kernel;
use gavel::device::cuda::plan::{Chip, Follows, Plan};
use softcuda::device::Model;

/// An architecture and a chip of it.
struct Target {
    arch: u32,
    chip: Chip,
    /// As softcuda knows it.
    model: &'static Model,
}

/// Those that the build has machine code for; 80 and 90 are always asked for.
fn targets() -> Vec<Target> {
    let all = [(80, "a100"), (90, "h100"), (100, "b200")];
    let built = all.into_iter().filter(|&(arch, _)| {
        let built = !resources("linear", arch).is_empty();
        assert!(
            built || arch == 100,
            "the build has no machine code for sm_{arch}"
        );
        built
    });
    built
        .map(|(arch, name)| {
            let model = Model::named(name).expect("a model");
            let chip = Chip {
                multiprocessors: model.multiprocessors as usize,
                major: model.compute_capability.0 as usize,
            };
            Target { arch, chip, model }
        })
        .collect()
}

/// The first of the registers that an operand such as `R24` or `R24.reuse` names.
fn register(operand: &str) -> u32 {
    let name = operand
        .split('.')
        .next()
        .and_then(|name| name.strip_prefix('R'));
    let number = name.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("expected a register, found {operand}"))
}

fn count(code: &[Instruction], is: impl Fn(&Instruction) -> bool) -> usize {
    code.iter().filter(|i| is(i)).count()
}

/// Whether this multiplies tiles of weights and loads others, all without conditions: a whole chunk.
fn is_whole(code: &[Instruction]) -> bool {
    let ours = |i: &Instruction| i.is_mma() || i.is_wide_load();
    count(code, Instruction::is_mma) > 0
        && count(code, Instruction::is_wide_load) > 0
        && code
            .iter()
            .filter(|i| ours(i))
            .all(|i| i.predicate.is_none())
}

/// Most loads of weights that a turn through `code` has issued and no product has used yet. A turn
/// loads what the next one uses.
fn loads_in_flight(code: &[Instruction]) -> usize {
    let mut under_way: Vec<u32> = Vec::new();
    let mut most = 0;
    for i in code.iter().chain(code) {
        if i.is_mma() {
            // D, A, B, C: weights are A
            let weights = register(&i.operands[1]);
            under_way.retain(|&loaded| loaded != weights);
        }
        if i.is_wide_load() {
            let to = register(&i.operands[0]);
            assert!(
                !under_way.contains(&to),
                "R{to} is loaded twice before its use"
            );
            under_way.push(to);
            most = most.max(under_way.len());
        }
    }
    most
}

#[test]
fn the_weight_loop_is_16_byte_loads_mma_and_little_else() {
    for Target { arch, .. } in targets() {
        let code = disassemble("linear", arch, "linear_1_1");
        let mut loops = inner_loops(&code);
        loops.retain(|body| is_whole(body));
        assert_eq!(loops.len(), 1, "sm_{arch}: {loops:#?}");
        let body = loops[0];
        let mma = count(body, Instruction::is_mma);
        assert_eq!(mma, 8, "sm_{arch}: {body:#?}");
        let loads = |i: &Instruction| i.opcode.starts_with("LDG");
        assert_eq!(count(body, loads), mma, "loads, sm_{arch}");
        assert_eq!(
            count(body, Instruction::is_wide_load),
            mma,
            "wide loads, sm_{arch}"
        );
        let each = (body.len() - mma) as f64 / mma as f64;
        println!("sm_{arch}: {each:.3} instructions other than mma a tile");
        assert!(each <= 6.0, "sm_{arch}: {each}");
    }
}

/// Instructions of the innermost loops of `kernel` in a text of PTX that have no branch but their own.
fn straight_loops<'a>(ptx: &'a str, kernel: &str) -> Vec<Vec<&'a str>> {
    let entry = format!(".entry {kernel}(");
    let code = ptx.lines().skip_while(|line| !line.contains(&entry));
    let (mut loops, mut label, mut body) = (Vec::new(), "", Vec::new());
    for line in code
        .take_while(|line| !line.starts_with('}'))
        .map(str::trim)
    {
        if let Some(name) = line.strip_suffix(':') {
            (label, body) = (name, Vec::new());
        } else if line.ends_with(';') && !line.starts_with(['.', '/']) {
            body.push(line);
            if line.contains("bra") {
                let target = line.trim_end_matches(';').split_whitespace().last();
                match target == Some(label) {
                    true => loops.push(std::mem::take(&mut body)),
                    false => label = "",
                }
            }
        }
    }
    loops
}

#[test]
fn the_weight_loop_has_few_instructions_in_ptx_too() {
    for level in LEVELS {
        let ptx = built(&format!("linear.compute_{level}.ptx"));
        let mut loops = straight_loops(&ptx, "linear_1_1");
        let is = |what: &'static str| move |line: &&&str| line.contains(what);
        loops.retain(|body| body.iter().any(|line| line.contains("mma.sync")));
        assert_eq!(loops.len(), 1, "compute_{level}: {loops:#?}");
        let mma = loops[0].iter().filter(is("mma.sync")).count();
        let loads = loops[0].iter().filter(is("ld.global")).count();
        assert_eq!((mma, loads), (8, 8), "compute_{level}: {loops:#?}");
        let each = (loops[0].len() - mma) as f64 / mma as f64;
        println!("compute_{level}: {each:.3} instructions other than mma a tile");
        assert!(each <= 4.0, "compute_{level}: {each}");
    }
}

#[test]
fn plans_have_under_way_what_the_machine_code_and_the_resident_warps_have() {
    // row tiles and columns: SmolLM2's qkv, Llama-3.1-8B's o, gate and up
    let shapes = [(60, 576), (256, 4096), (1792, 4096)];
    for Target { arch, chip, model } in targets() {
        let registers = resources("linear", arch);
        for (row_tiles, columns) in shapes {
            let plan = Plan::choose(row_tiles, columns, Follows::Nothing, chip);
            let shape = plan.shape(8);
            let name = kernel(&plan, &shape);
            let code = disassemble("linear", arch, name);
            let whole: Vec<_> = basic_blocks(&code)
                .into_iter()
                .filter(|b| is_whole(b))
                .collect();
            assert!(!whole.is_empty(), "{name}, sm_{arch}");
            let loads: Vec<usize> = whole.iter().map(|block| loads_in_flight(block)).collect();
            assert!(
                loads.iter().all(|&n| n == loads[0]),
                "{name}, sm_{arch}: {loads:?}"
            );

            let of_kernel = format!("function '{name}'");
            let mut said = registers
                .lines()
                .skip_while(|line| !line.contains(&of_kernel));
            let used = said.find_map(|line| line.split_once("Used ")?.1.split_once(" registers"));
            let used = used
                .expect("ptxas says registers")
                .0
                .parse()
                .expect("a number");
            let fit = model.resident_blocks(shape.threads as u32, used, shape.shared_bytes as u32);
            let resident = (fit as usize).min(plan.workers.div_ceil(chip.multiprocessors));
            let bytes = loads[0] * 512 * resident * shape.threads / 32;
            println!(
                "sm_{arch} {name}: {} loads a warp, {resident} blocks of {} warps, {used} registers: {bytes}",
                loads[0],
                shape.threads / 32
            );
            assert_eq!(bytes, plan.bytes_in_flight(chip), "{name}, sm_{arch}");
            assert!(bytes >= chip.bytes_in_flight(), "{name}, sm_{arch}");
        }
    }
}
