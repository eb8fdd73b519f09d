//! A warp: its lanes, where they are, and the loop that runs them.
//!
//! Lanes that part at a branch become splits, each with its own place in the code; a join records
//! where they meet again. Splits of a warp are scheduled like threads of their own (as since
//! compute capability 7.0), so that lanes may wait for each other.

use super::lanes::{LANES, Regs};
use super::machine::{Block, Context};
use super::ops::*;
use super::order::View;
use super::{Rule, code};
use std::sync::atomic::Ordering;

/// Why a thread cannot go on; becomes a [`super::Violation`] with the place added.
#[derive(Debug)]
pub(super) struct Fault {
    pub rule: Rule,
    pub code: u32,
    pub message: String,
    pub lane: u32,
    pub address: Option<u64>,
    /// Instruction, where it is not the current one.
    pub pc: Option<u32>,
}

impl Fault {
    pub fn new(rule: Rule, code: u32, lane: u32, message: impl Into<String>) -> Box<Fault> {
        Box::new(Fault {
            rule,
            code,
            message: message.into(),
            lane,
            address: None,
            pc: None,
        })
    }

    pub fn at(mut self: Box<Fault>, address: u64) -> Box<Fault> {
        self.address = Some(address);
        self
    }
}

/// What lanes of a split wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// Barrier of the block.
    Barrier(u8),
    /// Lanes of a member mask.
    Members(u32),
    /// The grids before this one.
    Grid,
}

/// Lanes that are at the same place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub pc: u32,
    pub mask: u32,
    /// Where they meet others; [`NOWHERE`] if nowhere.
    pub join: u32,
    pub wait: Wait,
}

#[derive(Debug, Clone, Copy)]
struct Join {
    pc: u32,
    /// Lanes still on their way, and lanes there.
    pending: u32,
    arrived: u32,
    parent: u32,
    used: bool,
}

/// A copy that a lane began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    /// Whose it is: neighbours in the order of lanes, of equal parts.
    pub lanes: u32,
    pub group: u32,
    pub at: u32,
    pub bytes: u32,
    pub pc: u32,
}

#[derive(Debug)]
pub(super) struct Warp {
    pub index: usize,
    pub regs: Regs,
    pub splits: Vec<Split>,
    joins: Vec<Join>,
    /// Threads that did not exit.
    pub live: u32,
    /// Threads there are.
    pub threads: u32,
    pub view: View,
    pub instructions: u64,
    pub local: Vec<u8>,
    pub local_init: Vec<u64>,
    pub copies: Vec<Copy>,
    /// Groups that each lane has committed.
    pub groups: [u32; LANES],
    /// Allocation that was accessed last.
    pub last_allocation: usize,
    pub turn: usize,
}

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It used up its turn.
    Turn,
    /// All its lanes wait.
    Blocked,
    Done,
}

impl Warp {
    pub fn new() -> Warp {
        Warp {
            index: 0,
            regs: Regs {
                rows: Vec::new(),
                preds: Vec::new(),
                approx: 0,
            },
            splits: Vec::new(),
            joins: Vec::new(),
            live: 0,
            threads: 0,
            view: View::new(0, 0),
            instructions: 0,
            local: Vec::new(),
            local_init: Vec::new(),
            copies: Vec::new(),
            groups: [0; LANES],
            last_allocation: 0,
            turn: 0,
        }
    }

    /// Puts `threads` lanes at the start of the code.
    pub fn start(&mut self, index: usize, threads: u32, block: u32) {
        self.index = index;
        self.threads = if threads >= 32 {
            u32::MAX
        } else {
            (1 << threads) - 1
        };
        self.live = self.threads;
        self.splits.clear();
        self.joins.clear();
        self.splits.push(Split {
            pc: 0,
            mask: self.threads,
            join: NOWHERE,
            wait: Wait::Nothing,
        });
        self.view = View::new(block, index);
        self.instructions = 0;
        self.copies.clear();
        self.groups = [0; LANES];
        self.turn = 0;
    }

    fn new_join(&mut self, join: Join) -> u32 {
        if let Some(i) = self.joins.iter().position(|j| !j.used) {
            self.joins[i] = join;
            return i as u32;
        }
        self.joins.push(join);
        (self.joins.len() - 1) as u32
    }

    /// Lanes of `mask` reached the place of join `j`. Gives the split that goes on, if all did.
    fn arrive(&mut self, j: u32, mask: u32) -> Option<Split> {
        let join = &mut self.joins[j as usize];
        join.arrived |= mask;
        join.pending &= !mask;
        if join.pending != 0 {
            return None;
        }
        join.used = false;
        Some(Split {
            pc: join.pc,
            mask: join.arrived,
            join: join.parent,
            wait: Wait::Nothing,
        })
    }

    /// Lanes of `mask` are gone; joins do not wait for them.
    fn exit(&mut self, mask: u32, mut j: u32) {
        self.live &= !mask;
        while j != NOWHERE {
            let join = &mut self.joins[j as usize];
            join.pending &= !mask;
            let parent = join.parent;
            if join.pending == 0 && join.used {
                join.used = false;
                let split = Split {
                    pc: join.pc,
                    mask: join.arrived,
                    join: parent,
                    wait: Wait::Nothing,
                };
                if split.mask != 0 {
                    self.splits.push(split);
                }
            }
            j = parent;
        }
    }

    /// Lets lanes that wait where others should meet them go on alone: those others may wait for
    /// something that only they can do. True if there were any.
    pub fn part_for_good(&mut self) -> bool {
        let before = self.splits.len();
        for join in self.joins.iter_mut().filter(|j| j.used && j.arrived != 0) {
            self.splits.push(Split {
                pc: join.pc,
                mask: join.arrived,
                join: join.parent,
                wait: Wait::Nothing,
            });
            join.arrived = 0;
        }
        self.splits.len() > before
    }

    /// Wakes the split with `mask`.
    pub fn wake(&mut self, mask: u32) {
        for split in &mut self.splits {
            if split.mask & mask != 0 {
                split.wait = Wait::Nothing;
            }
        }
    }

    pub fn done(&self) -> bool {
        self.splits.is_empty()
    }
}

/// Runs `warp` for at most `budget` instructions.
pub(super) fn run(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    mut budget: u32,
) -> Result<Stop, (u32, Box<Fault>)> {
    let code = cx.code;
    'splits: loop {
        if warp.splits.is_empty() {
            return Ok(Stop::Done);
        }
        // the next split that waits for nothing, beginning behind the last one that ran
        let count = warp.splits.len();
        let ready = (0..count)
            .map(|i| (warp.turn + i) % count)
            .find(|&i| warp.splits[i].wait == Wait::Nothing);
        let Some(mut current) = ready else {
            return Ok(Stop::Blocked);
        };
        let split = warp.splits[current];
        let (mut pc, mut mask, mut join) = (split.pc, split.mask, split.join);
        let mut meet = if join == NOWHERE {
            NOWHERE
        } else {
            warp.joins[join as usize].pc
        };
        loop {
            if pc == meet {
                match warp.arrive(join, mask) {
                    Some(next) => {
                        (pc, mask, join) = (next.pc, next.mask, next.join);
                        meet = if join == NOWHERE {
                            NOWHERE
                        } else {
                            warp.joins[join as usize].pc
                        };
                        warp.splits[current] = next;
                        continue;
                    }
                    None => {
                        warp.splits.swap_remove(current);
                        warp.turn = 0;
                        continue 'splits;
                    }
                }
            }
            if budget == 0 {
                let split = &mut warp.splits[current];
                (split.pc, split.mask, split.join) = (pc, mask, join);
                // another split, if there is one, is next
                warp.turn = current + 1;
                return Ok(Stop::Turn);
            }
            let inst = &code.insts[pc as usize];
            cx.counts.pcs[pc as usize] += 1;
            warp.instructions += u64::from(!inst.part);
            budget -= 1;
            let active = if inst.guard == NONE {
                mask
            } else {
                let guard = warp.regs.preds[inst.guard as usize];
                mask & if inst.negated { !guard } else { guard }
            };
            if let Op::Lanes(f) = inst.op {
                if active != 0 {
                    // SAFETY: the decoder chose the function by what the processor has
                    unsafe { f(&mut warp.regs, &inst.slots, active) };
                }
                pc += 1;
                continue;
            }
            if active == 0 && !matches!(inst.op, Op::Branch(..)) {
                pc += 1;
                continue;
            }
            cx.pc = pc;
            let at = pc;
            let failed = |fault| (at, fault);
            match &inst.op {
                Op::Branch(target, place) => {
                    let other = mask & !active;
                    if other == 0 {
                        pc = *target;
                    } else if active == 0 {
                        pc += 1;
                    } else {
                        cx.counts.divergent += 1;
                        join = part(warp, *place, mask, join);
                        meet = if join == NOWHERE {
                            NOWHERE
                        } else {
                            warp.joins[join as usize].pc
                        };
                        warp.splits.push(Split {
                            pc: *target,
                            mask: active,
                            join,
                            wait: Wait::Nothing,
                        });
                        mask = other;
                        pc += 1;
                        let split = &mut warp.splits[current];
                        (split.pc, split.mask, split.join) = (pc, mask, join);
                    }
                }
                Op::Table(index, targets, place) => {
                    let values = warp.regs.rows[*index as usize].0;
                    let mut rest = active;
                    let mut parts: Vec<(u32, u32)> = Vec::new();
                    while rest != 0 {
                        let lane = rest.trailing_zeros();
                        let value = values[lane as usize];
                        let same = (0..32)
                            .filter(|&i| rest >> i & 1 == 1 && values[i as usize] == value)
                            .fold(0u32, |m, i| m | 1 << i);
                        let Some(&target) = targets.get(value as usize) else {
                            return Err(failed(Fault::new(
                                Rule::Undefined,
                                code::ILLEGAL_INSTRUCTION,
                                lane,
                                format!("branch {value} of a table of {}", targets.len()),
                            )));
                        };
                        parts.push((target, same));
                        rest &= !same;
                    }
                    let stay = mask & !active;
                    if stay != 0 {
                        parts.push((pc + 1, stay));
                    }
                    if parts.len() > 1 {
                        cx.counts.divergent += 1;
                        join = part(warp, *place, mask, join);
                        meet = if join == NOWHERE {
                            NOWHERE
                        } else {
                            warp.joins[join as usize].pc
                        };
                    }
                    for &(pc, mask) in &parts[1..] {
                        warp.splits.push(Split {
                            pc,
                            mask,
                            join,
                            wait: Wait::Nothing,
                        });
                    }
                    (pc, mask) = parts[0];
                    let split = &mut warp.splits[current];
                    (split.pc, split.mask, split.join) = (pc, mask, join);
                }
                Op::Exit => {
                    let rest = mask & !active;
                    if rest == 0 {
                        warp.splits.swap_remove(current);
                        warp.turn = 0;
                        warp.exit(active, join);
                        continue 'splits;
                    }
                    warp.exit(active, join);
                    mask = rest;
                    pc += 1;
                    warp.splits[current].mask = rest;
                }
                Op::Trap => {
                    return Err(failed(Fault::new(
                        Rule::Trap,
                        code::LAUNCH_FAILED,
                        active.trailing_zeros(),
                        "`trap` was executed",
                    )));
                }
                Op::Assert => {
                    return Err(failed(Fault::new(
                        Rule::Trap,
                        code::ASSERT,
                        active.trailing_zeros(),
                        "a device-side assertion failed",
                    )));
                }
                Op::Nop | Op::Prefetch => pc += 1,
                Op::Sync(members, sync) => {
                    // lanes of the mask that are elsewhere are waited for
                    let members = warp.regs.rows[*members as usize].0;
                    let first = active.trailing_zeros();
                    let wanted = members[first as usize];
                    let lanes = |m: u32| (0..32u32).filter(move |i| m >> i & 1 == 1);
                    if lanes(active).any(|i| members[i as usize] >> i & 1 == 0) {
                        let lane = lanes(active).find(|&i| members[i as usize] >> i & 1 == 0);
                        return Err(failed(Fault::new(
                            Rule::Undefined,
                            code::ILLEGAL_INSTRUCTION,
                            lane.unwrap_or(first),
                            format!("a lane outside its member mask {wanted:#010x}"),
                        )));
                    }
                    let uniform = lanes(active).all(|i| members[i as usize] == wanted);
                    if !uniform {
                        // groups of lanes that name different masks part here
                        let same = lanes(active)
                            .filter(|&i| members[i as usize] == wanted)
                            .fold(0u32, |m, i| m | 1 << i);
                        let rest = mask & !same;
                        join = join_again(warp, join, mask, pc + 1);
                        warp.splits.push(Split {
                            pc,
                            mask: rest,
                            join,
                            wait: Wait::Nothing,
                        });
                        mask = same;
                        meet = warp.joins[join as usize].pc;
                        let split = &mut warp.splits[current];
                        (split.pc, split.mask, split.join) = (pc, mask, join);
                        continue;
                    }
                    let need = wanted & warp.live;
                    let mut together = active;
                    for other in &warp.splits {
                        let meets = other.wait == Wait::Members(wanted)
                            && (other.pc == pc
                                || matches!(**sync, Sync::Barrier)
                                    && is_warp_barrier(&code.insts[other.pc as usize].op));
                        if meets {
                            let m = guarded(warp, &code.insts[other.pc as usize], other.mask);
                            together |= m;
                        }
                    }
                    if together & need != need {
                        let split = &mut warp.splits[current];
                        (split.pc, split.mask, split.join) = (pc, mask, join);
                        split.wait = Wait::Members(wanted);
                        warp.turn = current + 1;
                        continue 'splits;
                    }
                    super::sync::run(cx, warp, sync, together).map_err(failed)?;
                    for split in &mut warp.splits {
                        if split.wait == Wait::Members(wanted) && split.mask & together != 0 {
                            split.wait = Wait::Nothing;
                            split.pc += 1;
                        }
                    }
                    // those who met here go on as one
                    let mut i = 0;
                    while i < warp.splits.len() {
                        let other = warp.splits[i];
                        if i == current
                            || (other.pc, other.join, other.wait) != (pc + 1, join, Wait::Nothing)
                        {
                            i += 1;
                            continue;
                        }
                        mask |= other.mask;
                        warp.splits.swap_remove(i);
                        if current == warp.splits.len() {
                            current = i;
                        }
                    }
                    warp.splits[current].mask = mask;
                    pc += 1;
                }
                Op::Activemask(d) => {
                    let row = [active; LANES];
                    <u32 as super::lanes::Value>::put(&mut warp.regs, *d, &row, active);
                    pc += 1;
                }
                Op::Barrier(barrier) => {
                    cx.counts.barriers += 1;
                    let blocked =
                        super::sync::barrier(cx, block, warp, barrier, active).map_err(failed)?;
                    pc += 1;
                    if let Some(id) = blocked {
                        if active != mask {
                            return Err(failed(Fault::new(
                                Rule::Divergent,
                                code::ILLEGAL_INSTRUCTION,
                                (mask & !active).trailing_zeros(),
                                "a barrier under a guard that is not the same for the warp",
                            )));
                        }
                        let split = &mut warp.splits[current];
                        (split.pc, split.mask, split.join) = (pc, mask, join);
                        split.wait = Wait::Barrier(id);
                        warp.turn = current + 1;
                        return Ok(Stop::Blocked);
                    }
                }
                Op::GridWait => {
                    pc += 1;
                    if cx.grid.waits && !cx.run.complete_below(cx.grid.index) {
                        let split = &mut warp.splits[current];
                        (split.pc, split.mask, split.join) = (pc, mask, join);
                        split.wait = Wait::Grid;
                        warp.turn = current + 1;
                        continue 'splits;
                    }
                    cx.run.waited(cx.grid, &mut warp.view);
                }
                Op::LaunchDependents => {
                    if !block.triggered {
                        block.triggered = true;
                        cx.grid.triggered.fetch_add(1, Ordering::AcqRel);
                        cx.run.changed();
                        // so that the successor may run before the next instruction
                        budget = 0;
                    }
                    pc += 1;
                }
                other => {
                    super::access::run(cx, block, warp, other, active).map_err(failed)?;
                    pc += 1;
                    if cx.yield_now {
                        // a poll: let others go on
                        cx.yield_now = false;
                        cx.polled = true;
                        budget = budget.min(4);
                    }
                }
            }
        }
    }
}

fn is_warp_barrier(op: &Op) -> bool {
    matches!(op, Op::Sync(_, sync) if matches!(**sync, Sync::Barrier))
}

fn guarded(warp: &Warp, inst: &Inst, mask: u32) -> u32 {
    if inst.guard == NONE {
        return mask;
    }
    let guard = warp.regs.preds[inst.guard as usize];
    mask & if inst.negated { !guard } else { guard }
}

/// Lanes of `mask` part and meet at `place`. Gives the join.
fn part(warp: &mut Warp, place: u32, mask: u32, join: u32) -> u32 {
    if place == NOWHERE {
        // they never meet: each goes on as before, and a join above waits for both
        return join;
    }
    if join != NOWHERE && warp.joins[join as usize].pc == place {
        return join;
    }
    warp.new_join(Join {
        pc: place,
        pending: mask,
        arrived: 0,
        parent: join,
        used: true,
    })
}

fn join_again(warp: &mut Warp, join: u32, mask: u32, place: u32) -> u32 {
    warp.new_join(Join {
        pc: place,
        pending: mask,
        arrived: 0,
        parent: join,
        used: true,
    })
}
