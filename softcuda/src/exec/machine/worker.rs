//! A thread of the host: it takes blocks and gives their warps turns.

use super::*;

/// How a turn of a block ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    Done,
    /// It waits, or only polls.
    Waits,
    /// It could go on.
    Yields,
}

impl Worker {
    pub(super) fn start(&mut self, run: &Run, grid: &Grid, number: u64) {
        let mut block = self.spare.pop().unwrap_or_default();
        let launch = grid.launch;
        let code = &launch.kernel.code;
        let [gx, gy, _] = launch.grid.map(u64::from);
        let (a, b) = grid.order;
        let index =
            ((u128::from(number) * u128::from(a) + u128::from(b)) % u128::from(grid.blocks)) as u64;
        block.grid = grid.index;
        block.number = grid.first_block + index as u32;
        block.ctaid = [
            (index % gx) as u32,
            (index / gx % gy) as u32,
            (index / gx / gy) as u32,
        ];
        block.threads = launch.block.iter().product();
        block.triggered = false;
        block.check_barriers = false;
        block.parted = false;
        block.barriers.clear();
        block.barriers.resize_with(16, BarrierState::default);
        let warps = block.threads.div_ceil(32) as usize;
        block
            .shared
            .reset(code.dynamic_start + launch.dynamic_shared, warps);
        while block.warps.len() > warps {
            let warp = block.warps.pop();
            block.spare.extend(warp);
        }
        while block.warps.len() < warps {
            let warp = block.spare.pop().unwrap_or_else(Warp::new);
            block.warps.push(warp);
        }
        for i in 0..warps {
            let threads = block.threads - 32 * i as u32;
            let (ctaid, number) = (block.ctaid, block.number);
            let warp = &mut block.warps[i];
            warp.start(i, threads, number);
            warp.regs.rows.clear();
            warp.regs.rows.extend_from_slice(&grid.template);
            warp.regs.preds.clear();
            warp.regs.preds.resize(code.preds, 0);
            warp.regs.approx = run.options.approx_seed.unwrap_or(0);
            warp.view.complete(&(0..grid.known_below));
            let local = launch.kernel.local_bytes as usize + 16;
            if local > 16 {
                warp.local.clear();
                warp.local.resize(local * 32, 0);
                warp.local_init.clear();
                warp.local_init.resize((local * 32).div_ceil(64), 0);
            }
            specials(run, grid, warp, i as u32, ctaid);
        }
        if run.options.overlap == Overlap::Early {
            self.resident.push_front(block);
        } else {
            self.resident.push_back(block);
        }
    }

    /// Runs a block until it is done, only polls, waits, or lets another grid run beside it.
    fn turn(&mut self, run: &Run, block: &mut Block) -> Result<Turn, Box<Violation>> {
        let grid = &run.grids[block.grid];
        let mut polls = 0;
        let mut cx = Context {
            run,
            grid,
            code: &grid.launch.kernel.code,
            counts: &mut self.counts[block.grid],
            log: &mut self.log,
            pc: 0,
            yield_now: false,
            progress: false,
            recent: &mut self.recent,
            ranges: &mut self.ranges,
            patterns: &mut self.patterns,
            polled: false,
        };
        let mut executed = 0u64;
        let end = loop {
            let count = block.warps.len();
            let from = self.random.next() as usize % count;
            let ready = |w: &Warp| w.splits.iter().any(|s| s.wait == Wait::Nothing);
            let next = (from..count)
                .chain(0..from)
                .find(|&i| ready(&block.warps[i]));
            let Some(index) = next else {
                let waits_for_grid = block
                    .warps
                    .iter()
                    .flat_map(|w| &w.splits)
                    .any(|s| s.wait == Wait::Grid);
                if sync::open(block).map_err(|f| violation(&cx, block, 0, 0, *f))? {
                    continue;
                }
                if block.warps.iter().all(Warp::done) {
                    break Turn::Done;
                }
                if waits_for_grid {
                    if run.complete_below(grid.index) {
                        for warp in &mut block.warps {
                            for i in 0..warp.splits.len() {
                                if warp.splits[i].wait == Wait::Grid {
                                    warp.splits[i].wait = Wait::Nothing;
                                    run.waited(grid, &mut warp.view);
                                }
                            }
                        }
                        continue;
                    }
                    break Turn::Waits;
                }
                return Err(stuck(&cx, block));
            };
            let budget = 64u32 << (self.random.next() % 7);
            // the warp leaves the block for its turn, so that both can be changed
            std::mem::swap(&mut block.warps[index], &mut self.running);
            let warp = &mut self.running;
            let before = warp.instructions;
            let triggered = block.triggered;
            cx.polled = false;
            let result = warp::run(&mut cx, block, warp, budget);
            executed += warp.instructions - before;
            let polled = cx.polled;
            if let Ok(Stop::Done) = result
                && !warp.copies.is_empty()
            {
                // copies that nobody waited for end with the thread
                for copy in std::mem::take(&mut warp.copies) {
                    block
                        .shared
                        .end_copy(warp.index, copy.at, copy.bytes, copy.pc);
                }
            }
            let closed = match result {
                Ok(Stop::Done) => close(&cx, block, warp),
                _ => Ok(()),
            };
            std::mem::swap(&mut block.warps[index], &mut self.running);
            match result {
                Err((pc, fault)) => return Err(violation(&cx, block, index, pc, *fault)),
                Ok(stop) => {
                    closed.map_err(|f| violation(&cx, block, index, cx.pc, *f))?;
                    if stop == Stop::Done || block.check_barriers {
                        block.check_barriers = false;
                        sync::open(block).map_err(|f| violation(&cx, block, index, cx.pc, *f))?;
                    }
                }
            }
            if polled {
                polls += 1;
            } else {
                polls = 0;
                run.idle.end();
            }
            if polls > 2 * count || run.failed.load(Ordering::Relaxed) {
                break Turn::Waits;
            }
            if run.overlaps(grid)
                && yields(run, grid, block.triggered && !triggered, &mut self.random)
            {
                break Turn::Yields;
            }
        };
        let done = end == Turn::Done;
        if cx.progress || end != Turn::Waits {
            run.idle.end();
        } else {
            // a turn that only polls counts as if it had been longer than it is
            let idle = run.idle.turn(self.index, executed + POLL_COST);
            if (block.parted || idle > PART_AFTER)
                && block.warps.iter_mut().any(Warp::part_for_good)
            {
                block.parted = true;
            }
            let patience = match run.options.patience {
                0 => PATIENCE,
                own => own,
            };
            if idle > patience {
                let mut violation = stuck(&cx, block);
                violation.code = code::LAUNCH_TIMEOUT;
                violation.message =
                    "no thread makes progress: all that run wait for memory to change".to_owned();
                return Err(violation);
            }
        }
        if done {
            let longest = block.warps.iter().map(|w| w.instructions).max();
            cx.counts.longest = cx.counts.longest.max(longest.unwrap_or(0));
            block.shared.clear();
            if !block.triggered {
                block.triggered = true;
                grid.triggered.fetch_add(1, Ordering::AcqRel);
                run.changed();
            }
            run.finished(grid);
        }
        Ok(end)
    }

    pub(super) fn work(&mut self, run: &Run, workers: u64) {
        let mut held = vec![0u64; run.grids.len()];
        let (mut stalled, mut yielded) = (0, false);
        loop {
            if run.failed.load(Ordering::Acquire) {
                return;
            }
            let seen = *run.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
            // a new block when there is none, or when those there are wait
            let early = run.options.overlap == Overlap::Early && run.grids.len() > 1;
            if (self.resident.is_empty() || stalled > 0 || yielded || early)
                && let Some((grid, number)) = run.next_block(&held, workers)
            {
                held[grid] += 1;
                self.start(run, &run.grids[grid], number);
                if run.options.overlap != Overlap::Early {
                    // the new one is next
                    self.resident.rotate_right(1);
                }
                stalled = 0;
            }
            yielded = false;
            let Some(mut block) = self.resident.pop_front() else {
                if run.complete_below(run.grids.len()) {
                    return;
                }
                run.idle.turn(self.index, POLL_COST);
                sleep(run, seen);
                continue;
            };
            match self.turn(run, &mut block) {
                Err(violation) => {
                    run.fail(violation);
                    return;
                }
                Ok(Turn::Done) => {
                    held[block.grid] -= 1;
                    self.spare.push(block);
                    stalled = 0;
                }
                Ok(Turn::Yields) => {
                    self.resident.push_back(block);
                    (stalled, yielded) = (0, true);
                }
                Ok(Turn::Waits) => {
                    self.resident.push_back(block);
                    stalled += 1;
                    if stalled > self.resident.len() {
                        // all of ours wait: let the other workers run
                        sleep(run, seen);
                    }
                }
            }
        }
    }
}

/// Whether a block of a grid that overlaps another one leaves its turn to others: early, once it
/// has let the successor start; in between, by chance.
fn yields(run: &Run, grid: &Grid, has_triggered: bool, random: &mut Random) -> bool {
    match run.options.overlap {
        Overlap::Early => has_triggered,
        Overlap::Interleaved => {
            let both = grid.waits || grid.triggered.load(Ordering::Acquire) >= grid.blocks;
            (has_triggered || both) && random.next().is_multiple_of(4)
        }
        Overlap::Late => false,
    }
}

pub(super) fn sleep(run: &Run, seen: u64) {
    let (lock, condvar) = &run.wake;
    let count = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if *count == seen {
        // a poll of memory may succeed without notice: never for long
        let _ = condvar.wait_timeout(count, Duration::from_micros(50));
    }
}

pub(super) fn specials(run: &Run, grid: &Grid, warp: &mut Warp, index: u32, ctaid: [u32; 3]) {
    use crate::exec::ops::Special::*;
    let launch = grid.launch;
    let [nx, ny, _] = launch.block;
    for &(row, wide, constant) in &launch.kernel.code.constants {
        let Constant::Special(special) = constant else {
            continue;
        };
        let value = |lane: u32| -> u64 {
            let thread = index * 32 + lane;
            u64::from(match special {
                Tid(0) => thread % nx,
                Tid(1) => thread / nx % ny,
                Tid(_) => thread / nx / ny,
                Ntid(i) => launch.block[i as usize],
                Ctaid(i) => ctaid[i as usize],
                Nctaid(i) => launch.grid[i as usize],
                Laneid => lane,
                Warpid => index,
                Nwarpid => run.model.max_threads_per_multiprocessor / 32,
                Smid => (ctaid[0] + ctaid[1] * 7 + ctaid[2] * 31) % run.model.multiprocessors,
                Nsmid => run.model.multiprocessors,
                Gridid => grid.index as u32,
                LaneMask(kind) => {
                    let own = 1u32 << lane;
                    match kind {
                        crate::exec::ops::LaneMask::Eq => own,
                        crate::exec::ops::LaneMask::Lt => own - 1,
                        crate::exec::ops::LaneMask::Le => own | (own - 1),
                        crate::exec::ops::LaneMask::Gt => !(own | (own - 1)),
                        crate::exec::ops::LaneMask::Ge => !(own - 1),
                    }
                }
                DynamicShared => launch.dynamic_shared,
                TotalShared => launch.dynamic_shared + launch.kernel.static_shared,
                Environment(1) => (grid.workspace >> 32) as u32,
                Environment(_) => grid.workspace as u32,
            })
        };
        set_row(&mut warp.regs.rows, row, wide, value);
    }
}
