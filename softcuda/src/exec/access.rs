//! Instructions that reach memory.

use super::decode::PARAM_WINDOW;
use super::lanes::{LANES, Regs, Value, each, wide};
use super::machine::{Block, Context, close};
use super::ops::*;
use super::order::Met;
use super::races::{Entry, Kind, Observation, Segment};
use super::shared::{Wrong, wavefronts};
use super::warp::{Copy, Fault, Warp};
use super::{Rule, code, mma};
use crate::memory::{Allocation, LOCAL_WINDOW, SHARED_WINDOW};
use crate::ptx::Type;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Result<T, E = Box<Fault>> = std::result::Result<T, E>;
type Addresses = [u64; LANES];

/// The bytes that a warp moves: up to 32 for each lane.
#[repr(C, align(64))]
struct Buffer([u8; 32 * LANES]);

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            lane
        })
    })
}

wide! {
fn addresses(regs: &Regs, base: u16, pair: bool, offset: i64) -> Addresses {
    if pair {
        let a = u64::get(regs, base);
        each(|i| a[i].wrapping_add_signed(offset))
    } else {
        // 32-bit addresses name shared, local or parameter memory
        let a = u32::get(regs, base);
        each(|i| u64::from(a[i]).wrapping_add_signed(offset))
    }
}
}

pub(super) fn run(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    op: &Op,
    mask: u32,
) -> Result<()> {
    match op {
        Op::Load(access) => load(cx, block, warp, access, mask),
        Op::Store(access) => store(cx, block, warp, access, mask),
        Op::Atomic(atomic) => self::atomic(cx, block, warp, atomic, mask),
        Op::Fence(scope) => {
            close(cx, block, warp)?;
            warp.view.fence(*scope);
            Ok(())
        }
        Op::Mma(op) => {
            whole(warp, mask, "mma")?;
            mma::run(&mut warp.regs, op, cx.run.options.accumulate);
            Ok(())
        }
        Op::Matrix(matrix) => self::matrix(cx, block, warp, matrix, mask),
        Op::MoveMatrix(d, a) => {
            whole(warp, mask, "movmatrix")?;
            mma::transpose(&mut warp.regs, *d, *a);
            Ok(())
        }
        Op::CpAsync(copy) => cp_async(cx, block, warp, copy, mask),
        Op::CpCommit => {
            for lane in lanes(mask) {
                warp.groups[lane] += 1;
            }
            Ok(())
        }
        Op::CpWait(groups) => {
            wait(block, warp, mask, |warp, copy| {
                let committed = warp.groups[copy.lane as usize];
                copy.group + groups < committed
            });
            Ok(())
        }
        Op::CpWaitAll => {
            wait(block, warp, mask, |_, _| true);
            Ok(())
        }
        Op::Mbarrier(op) => mbarrier(cx, block, warp, op, mask),
        Op::Clock(d, wide) => {
            let now = warp.instructions;
            if *wide {
                u64::put(&mut warp.regs, *d, &[now; LANES], mask);
            } else {
                u32::put(&mut warp.regs, *d, &[now as u32; LANES], mask);
            }
            Ok(())
        }
        Op::IsSpace(d, a, place) => {
            let a = u64::get(&warp.regs, *a);
            let mut bits = 0;
            for lane in lanes(mask) {
                bits |= u32::from(generic(a[lane]) == *place) << lane;
            }
            warp.regs.put_pred(*d, bits, mask);
            Ok(())
        }
        // the loop of the warp runs all others itself
        _ => Ok(()),
    }
}

/// Instructions of the whole warp need all its lanes.
fn whole(warp: &Warp, mask: u32, what: &str) -> Result<()> {
    if mask == u32::MAX {
        return Ok(());
    }
    let lane = (!mask).trailing_zeros();
    let gone = if warp.threads >> lane & 1 == 0 {
        "does not exist"
    } else if warp.live >> lane & 1 == 0 {
        "has exited"
    } else {
        "is elsewhere"
    };
    Err(Fault::new(
        Rule::Divergent,
        code::ILLEGAL_INSTRUCTION,
        lane,
        format!("`{what}` needs all 32 lanes: lane {lane} {gone}"),
    ))
}

fn generic(address: u64) -> Place {
    match address >> 48 {
        1 => Place::Shared,
        2 => Place::Local,
        3 => Place::Param,
        _ => Place::Global,
    }
}

/// Whether a generic access reaches global memory alone, as most do.
#[inline(always)]
fn all_global(address: &Addresses, mask: u32) -> bool {
    let mut other = 0;
    for i in 0..LANES {
        other |= u32::from(generic(address[i]) != Place::Global) << i;
    }
    other & mask == 0
}

/// Lanes of a generic access by the memory they reach, with addresses there.
fn places(address: &Addresses, mask: u32) -> Vec<(Place, Addresses, u32)> {
    let mut parts = Vec::with_capacity(1);
    let mut rest = mask;
    while rest != 0 {
        let place = generic(address[rest.trailing_zeros() as usize]);
        let same = lanes(rest)
            .filter(|&i| generic(address[i]) == place)
            .fold(0u32, |m, i| m | 1 << i);
        let window = match place {
            Place::Shared => SHARED_WINDOW,
            Place::Local => LOCAL_WINDOW,
            _ => 0,
        };
        parts.push((place, address.map(|a| a.wrapping_sub(window)), same));
        rest &= !same;
    }
    parts
}

// ---- global memory

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Read,
    Write,
    Atomic,
}

/// Ranges that a warp's lanes touch, neighbours joined: start, end, first lane.
enum Ranges {
    One([(u64, u64, u8); 1]),
    Many(RangeList),
}

/// A list that is kept for the next access.
pub(super) type RangeList = Vec<(u64, u64, u8)>;

/// How the addresses of a whole warp lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One behind the other.
    Row,
    /// All the same.
    Point,
    Other,
}

wide! {
fn shape(address: &Addresses, mask: u32, bytes: u64) -> Shape {
    if mask != u32::MAX {
        return Shape::Other;
    }
    let first = address[0];
    let (mut row, mut point, mut expected) = (0, 0, first);
    for i in 0..LANES {
        row |= address[i] ^ expected;
        point |= address[i] ^ first;
        expected = expected.wrapping_add(bytes);
    }
    match (row, point) {
        (0, _) => Shape::Row,
        (_, 0) => Shape::Point,
        _ => Shape::Other,
    }
}
}

impl Ranges {
    #[inline(always)]
    fn new(spare: &mut RangeList, address: &Addresses, mask: u32, bytes: u64) -> Ranges {
        Ranges::of(spare, shape(address, mask, bytes), address, mask, bytes)
    }

    #[inline(always)]
    fn of(
        spare: &mut RangeList,
        shape: Shape,
        address: &Addresses,
        mask: u32,
        bytes: u64,
    ) -> Ranges {
        let first = address[0];
        match shape {
            Shape::Row => return Ranges::One([(first, first.wrapping_add(bytes * 32), 0)]),
            Shape::Point => return Ranges::One([(first, first.wrapping_add(bytes), 0)]),
            Shape::Other => {}
        }
        let mut list = std::mem::take(spare);
        list.clear();
        for lane in lanes(mask) {
            let start = address[lane];
            let end = start + bytes;
            if let Some((s, e, _)) = list.last_mut() {
                if start == *e {
                    *e = end;
                    continue;
                }
                if start >= *s && end <= *e {
                    continue;
                }
            }
            list.push((start, end, lane as u8));
        }
        Ranges::Many(list)
    }

    #[inline(always)]
    fn all(&self) -> &[(u64, u64, u8)] {
        match self {
            Ranges::One(one) => one,
            Ranges::Many(many) => many,
        }
    }

    /// Keeps the list for the next access.
    #[inline(always)]
    fn done(self, spare: &mut RangeList) {
        if let Ranges::Many(list) = self {
            *spare = list;
        }
    }

    /// Start of the range in which all 32 lanes lie one behind the other.
    #[inline(always)]
    fn row(&self, bytes: u64) -> Option<u64> {
        match self {
            Ranges::One([(start, end, _)]) if end - start == bytes * 32 => Some(*start),
            _ => None,
        }
    }
}

/// Finds the allocation of the lanes of `mask`; those in another one are left over. Checks bounds
/// and alignment.
#[inline(always)]
fn find<'a>(
    cx: &mut Context<'a>,
    warp: &mut Warp,
    address: &Addresses,
    mask: u32,
    bytes: u64,
) -> Result<(usize, &'a Arc<Allocation>, u32, Ranges)> {
    let shape = shape(address, mask, bytes);
    let first = mask.trailing_zeros();
    let run = cx.run;
    let table = run.table.all();
    let start = address[first as usize];
    let holds = |i: usize| {
        table
            .get(i)
            .is_some_and(|a| start >= a.base() && start - a.base() < a.len())
    };
    let index = if holds(warp.last_allocation) {
        warp.last_allocation
    } else {
        match cx.run.table.find(start) {
            Some(index) => index,
            None => return Err(outside(cx, start, first, bytes)),
        }
    };
    warp.last_allocation = index;
    let allocation = &table[index];
    let (base, end) = (allocation.base(), allocation.base() + allocation.len());
    let (place, size) = (start.wrapping_sub(base), end - base);
    let touched = match shape {
        Shape::Row => 32 * bytes,
        Shape::Point => bytes,
        Shape::Other => u64::MAX,
    };
    if start & (bytes - 1) == 0 && place.saturating_add(touched) <= size {
        return Ok((
            index,
            allocation,
            mask,
            Ranges::of(cx.ranges, shape, address, mask, bytes),
        ));
    }
    // vector code over all lanes; lanes that do not take part must not be wrong
    let mut wrong = 0u64;
    for i in 0..LANES {
        let a = address[i];
        let out = u64::from(a < base) | u64::from(a.wrapping_add(bytes) > end);
        let odd = u64::from(a & (bytes - 1) != 0);
        wrong |= (out | odd << 32) & u64::from(mask >> i & 1).wrapping_neg();
    }
    if wrong == 0 {
        return Ok((
            index,
            allocation,
            mask,
            Ranges::of(cx.ranges, shape, address, mask, bytes),
        ));
    }
    let mut same = 0;
    for lane in lanes(mask) {
        let a = address[lane];
        if a & (bytes - 1) != 0 {
            return Err(Fault::new(
                Rule::Misaligned,
                code::MISALIGNED_ADDRESS,
                lane as u32,
                format!("an access of {bytes} bytes at an address that is no multiple of it"),
            )
            .at(a));
        }
        if a >= base && a < end {
            if a + bytes > end {
                return Err(outside(cx, a, lane as u32, bytes));
            }
            same |= 1 << lane;
        }
    }
    let ranges = Ranges::of(cx.ranges, Shape::Other, address, same, bytes);
    Ok((index, allocation, same, ranges))
}

#[cold]
fn outside(cx: &Context<'_>, address: u64, lane: u32, bytes: u64) -> Box<Fault> {
    let hint = cx.run.memory.explain(address);
    Fault::new(
        Rule::OutOfBounds,
        code::ILLEGAL_ADDRESS,
        lane,
        format!("{bytes} bytes at {address:#x} are in no allocation{hint}"),
    )
    .at(address)
}

/// Counts an access and notes it in the log.
#[inline(always)]
fn note(
    cx: &mut Context<'_>,
    warp: &mut Warp,
    index: usize,
    ranges: &Ranges,
    requested: u64,
    what: What,
    kind: Kind,
) {
    let allocation = &cx.run.table.all()[index];
    let traffic = &mut cx.counts.traffic[index];
    match what {
        What::Read => traffic.bytes_read += requested,
        What::Write => traffic.bytes_written += requested,
        What::Atomic => traffic.bytes_atomic += requested,
    }
    let base = allocation.base();
    let bits = cx.grid.touched[index].get_or_init(|| {
        let words = allocation.len().div_ceil(32 * 64) as usize;
        bytemuck::zeroed_slice_box::<AtomicU64>(words)
    });
    if let [(start, end, _)] = ranges.all() {
        // addresses of allocations are multiples of 256, so sectors do not straddle them
        let (first, last) = ((start - base) / 32, (end - 1 - base) / 32);
        traffic.sectors += last - first + 1;
        touch(bits, first, last);
    } else {
        let mut sectors = [0u64; 4 * LANES];
        let mut count = 0;
        for &(start, end, _) in ranges.all() {
            let (first, last) = ((start - base) / 32, (end - 1 - base) / 32);
            touch(bits, first, last);
            for sector in first..=last {
                if count > 0 && sectors[count - 1] == sector {
                    continue;
                }
                if count < sectors.len() {
                    sectors[count] = sector;
                    count += 1;
                }
            }
        }
        let sectors = &mut sectors[..count];
        if !sectors.is_sorted() {
            sectors.sort_unstable();
        }
        let repeated = sectors.windows(2).filter(|w| w[0] == w[1]).count();
        traffic.sectors += (count - repeated) as u64;
    }
    if warp.view.segment == u32::MAX {
        warp.view.segment = cx.log.segments.len() as u32;
        cx.log.segments.push(Segment {
            grid: cx.grid.index,
            block: warp.view.block,
            warp: warp.index as u8,
            clocks: warp.view.clocks,
            remote: warp.view.remote.clone(),
        });
    }
    for &(start, end, _) in ranges.all() {
        let entry = Entry {
            address: start,
            bytes: (end - start) as u32,
            segment: warp.view.segment,
            pc: cx.pc,
            allocation: index as u32,
            step: warp.instructions as u32,
            kind,
        };
        // what a loop repeats is noted once
        let slot = (start / 4 ^ u64::from(cx.pc)) as usize % cx.recent.len();
        let same = cx
            .log
            .entries
            .get(cx.recent[slot] as usize)
            .is_some_and(|old| entry.repeats(old));
        if !same {
            cx.recent[slot] = cx.log.entries.len() as u32;
            cx.log.entries.push(entry);
        }
    }
}

#[inline(always)]
fn touch(bits: &[AtomicU64], first: u64, last: u64) {
    let mut at = first;
    while at <= last {
        let (word, low) = ((at / 64) as usize, at % 64);
        let take = (64 - low).min(last + 1 - at);
        let mask = if take == 64 {
            u64::MAX
        } else {
            ((1 << take) - 1) << low
        };
        if bits[word].load(Ordering::Relaxed) & mask != mask {
            bits[word].fetch_or(mask, Ordering::Relaxed);
        }
        at += take;
    }
}

/// Notes what an atomic or volatile access to bytes at an address met.
#[inline(always)]
fn observe(
    cx: &mut Context<'_>,
    warp: &Warp,
    (address, bytes): (u64, u64),
    segment: u32,
    met: Met,
    idle: bool,
) {
    if (met.seen, met.left) != (0, 0) {
        cx.log.observe(Observation {
            address,
            bytes: bytes as u32,
            segment,
            step: warp.instructions as u32,
            idle,
            met,
        });
    }
}

fn kind_of(order: Order, scope: Scope, write: bool) -> Kind {
    match (order, scope, write) {
        (Order::Weak, _, false) => Kind::Read,
        (Order::Weak, _, true) => Kind::Write,
        (_, Scope::Device, false) => Kind::StrongRead,
        (_, Scope::Device, true) => Kind::StrongWrite,
        (_, Scope::Block, false) => Kind::BlockRead,
        (_, Scope::Block, true) => Kind::BlockWrite,
    }
}

fn uninitialised(lane: u32, address: u64, what: &str) -> Box<Fault> {
    Fault::new(
        Rule::Uninitialised,
        code::LAUNCH_FAILED,
        lane,
        format!("a read of {what} memory that was never written"),
    )
    .at(address)
}

#[inline(always)]
fn check_initialised(
    allocation: &Allocation,
    ranges: &Ranges,
    address: &Addresses,
    mask: u32,
    bytes: u64,
) -> Result<()> {
    for &(start, end, _) in ranges.all() {
        if let Some(hole) = allocation.first_uninitialised(start - allocation.base(), end - start) {
            let hole = allocation.base() + hole;
            let lane = lanes(mask).find(|&i| address[i] <= hole && hole < address[i] + bytes);
            return Err(uninitialised(lane.unwrap_or(0) as u32, hole, "global"));
        }
    }
    Ok(())
}

fn load_global(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    address: &Addresses,
    mask: u32,
) -> Result<()> {
    let bytes = u64::from(access.bytes * access.count);
    let (index, allocation, same, ranges) = find(cx, warp, address, mask, bytes)?;
    check_initialised(allocation, &ranges, address, same, bytes)?;
    let kind = if access.non_coherent {
        Kind::NonCoherent
    } else {
        kind_of(access.order, access.scope, false)
    };
    let requested = bytes * u64::from(same.count_ones());
    note(cx, warp, index, &ranges, requested, What::Read, kind);
    let base = allocation.base();
    let width = bytes as usize;
    if access.order == Order::Weak
        && let Some(start) = ranges.row(bytes)
        && let Some(rows) = words(access)
    {
        let at = (start - base) as usize;
        let regs = &mut warp.regs;
        match access.count {
            1 => words_to_rows(regs, rows, &allocation.bytes().array::<{ 4 * LANES }>(at)),
            2 => words_to_rows(regs, rows, &allocation.bytes().array::<{ 8 * LANES }>(at)),
            _ => words_to_rows(regs, rows, &allocation.bytes().array::<{ 16 * LANES }>(at)),
        }
        return Ok(());
    }
    let mut buffer = Buffer([0; 32 * LANES]);
    if access.order != Order::Weak {
        close(cx, block, warp)?;
        let segment = warp.view.segment;
        for lane in lanes(same) {
            let at = (address[lane] - base) as usize;
            let to = &mut buffer.0[lane * width..(lane + 1) * width];
            let read = || allocation.bytes().read(at, to);
            let ((), met) = cx.run.locations.access(
                address[lane],
                &mut warp.view,
                access.order,
                access.scope,
                (true, false),
                read,
            );
            observe(cx, warp, (address[lane], bytes), segment, met, true);
        }
        cx.yield_now = true;
    } else if let Some(start) = ranges.row(bytes) {
        let at = (start - base) as usize;
        allocation.bytes().read(at, &mut buffer.0[..width * LANES]);
    } else {
        for lane in lanes(same) {
            let at = (address[lane] - base) as usize;
            let to = &mut buffer.0[lane * width..(lane + 1) * width];
            allocation.bytes().read(at, to);
        }
    }
    ranges.done(cx.ranges);
    to_registers(&mut warp.regs, access, &buffer, same);
    if same != mask {
        return load_global(cx, block, warp, access, address, mask & !same);
    }
    Ok(())
}

/// Registers of an access to one, two or four words of 32 bits a lane, all of which are wanted.
#[inline(always)]
fn words(access: &Access) -> Option<&[u16]> {
    let rows = &access.data[..access.count as usize];
    let plain = access.bytes == 4 && !access.wide && access.count <= 4;
    (plain && !rows.contains(&NONE)).then_some(rows)
}

wide! {
/// Words of all lanes, which lie one lane behind the other, to a register for each word.
fn words_to_rows(regs: &mut Regs, rows: &[u16], data: &[u8]) {
    match *rows {
        [row] => {
            if let Ok(words) = bytemuck::try_pod_read_unaligned::<[u32; LANES]>(data) {
                regs.rows[row as usize].0 = words;
            }
        }
        [a, b] => {
            if let Ok(words) = bytemuck::try_pod_read_unaligned::<[[u32; 2]; LANES]>(data) {
                u32::put(regs, a, &each(|i| words[i][0]), u32::MAX);
                u32::put(regs, b, &each(|i| words[i][1]), u32::MAX);
            }
        }
        [a, b, c, d] => {
            // four lanes at a time
            for (group, quad) in data.chunks_exact(64).enumerate().take(LANES / 4) {
                let four = transposed(bytemuck::pod_read_unaligned(quad));
                for (row, words) in [a, b, c, d].into_iter().zip(four) {
                    regs.rows[row as usize].0[4 * group..4 * group + 4].copy_from_slice(&words);
                }
            }
        }
        _ => {}
    }
}
}

#[inline(always)]
#[cfg(target_arch = "x86_64")]
fn transposed(words: [[u32; 4]; 4]) -> [[u32; 4]; 4] {
    use std::arch::x86_64::*;
    let [a, b, c, d]: [__m128i; 4] = bytemuck::cast(words);
    // SAFETY: every processor of this architecture has these
    unsafe {
        let (low, high) = (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
        let (more_low, more_high) = (_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
        bytemuck::cast([
            _mm_unpacklo_epi64(low, more_low),
            _mm_unpackhi_epi64(low, more_low),
            _mm_unpacklo_epi64(high, more_high),
            _mm_unpackhi_epi64(high, more_high),
        ])
    }
}

#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
fn transposed(words: [[u32; 4]; 4]) -> [[u32; 4]; 4] {
    std::array::from_fn(|i| std::array::from_fn(|j| words[j][i]))
}

wide! {
/// Elements of the lanes to registers, widened as the access says.
fn to_registers(regs: &mut Regs, access: &Access, buffer: &Buffer, mask: u32) {
    let count = access.count as usize;
    let width = access.bytes as usize;
    for (k, &row) in access.data[..count].iter().enumerate() {
        if row == NONE {
            continue;
        }
        match (width, access.wide) {
            (4, false) => {
                let words: &[u32; 8 * LANES] = bytemuck::cast_ref(&buffer.0);
                let values: [u32; LANES] = match count {
                    1 => each(|i| words[i]),
                    2 => each(|i| words[2 * i + k]),
                    4 => each(|i| words[4 * i + k]),
                    _ => each(|i| words[8 * i + k]),
                };
                u32::put(regs, row, &values, mask);
            }
            (8, true) => {
                let words: &[u64; 4 * LANES] = bytemuck::cast_ref(&buffer.0);
                let values: [u64; LANES] = match count {
                    1 => each(|i| words[i]),
                    2 => each(|i| words[2 * i + k]),
                    _ => each(|i| words[4 * i + k]),
                };
                u64::put(regs, row, &values, mask);
            }
            (2, false) if !access.signed => {
                let words: &[u16; 16 * LANES] = bytemuck::cast_ref(&buffer.0);
                let values: [u32; LANES] =
                    each(|i| words[(count * i + k) % words.len()].into());
                u32::put(regs, row, &values, mask);
            }
            _ => {
                let values: [u64; LANES] = each(|i| {
                    let at = (i * count + k) * width;
                    let mut data = [0; 8];
                    data[..width].copy_from_slice(&buffer.0[at..at + width]);
                    let value = u64::from_le_bytes(data);
                    if access.signed {
                        let shift = 64 - 8 * width as u32;
                        ((value << shift) as i64 >> shift) as u64
                    } else {
                        value
                    }
                });
                if access.wide {
                    u64::put(regs, row, &values, mask);
                } else if access.narrow16 {
                    u16::put(regs, row, &each(|i| values[i] as u16), mask);
                } else {
                    u32::put(regs, row, &each(|i| values[i] as u32), mask);
                }
            }
        }
    }
}
}

/// Elements of the lanes from registers, as they lie in memory.
#[inline(always)]
fn from_registers(regs: &Regs, access: &Access, buffer: &mut Buffer) {
    let count = access.count as usize;
    let width = access.bytes as usize;
    for (k, &row) in access.data[..count].iter().enumerate() {
        match (width, access.wide) {
            (4, false) => {
                let values = u32::get(regs, row);
                let words: &mut [u32; 8 * LANES] = bytemuck::cast_mut(&mut buffer.0);
                match count {
                    1 => (0..LANES).for_each(|i| words[i] = values[i]),
                    2 => (0..LANES).for_each(|i| words[2 * i + k] = values[i]),
                    4 => (0..LANES).for_each(|i| words[4 * i + k] = values[i]),
                    _ => (0..LANES).for_each(|i| words[8 * i + k] = values[i]),
                }
            }
            _ => {
                let values: [u64; LANES] = if access.wide {
                    u64::get(regs, row)
                } else {
                    u32::get(regs, row).map(u64::from)
                };
                for (i, value) in values.iter().enumerate() {
                    let at = (i * count + k) * width;
                    buffer.0[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                }
            }
        }
    }
}

fn store_global(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    address: &Addresses,
    mask: u32,
    buffer: &Buffer,
) -> Result<()> {
    let bytes = u64::from(access.bytes * access.count);
    let (index, allocation, same, ranges) = find(cx, warp, address, mask, bytes)?;
    let kind = kind_of(access.order, access.scope, true);
    let base = allocation.base();
    let width = bytes as usize;
    cx.progress = true;
    if access.order != Order::Weak {
        close(cx, block, warp)?;
        // in the segment before what is published with it
        let requested = bytes * u64::from(same.count_ones());
        note(cx, warp, index, &ranges, requested, What::Write, kind);
        let segment = warp.view.segment;
        for lane in lanes(same) {
            let at = (address[lane] - base) as usize;
            let from = &buffer.0[lane * width..(lane + 1) * width];
            let write = || allocation.bytes().write(at, from);
            let ((), met) = cx.run.locations.access(
                address[lane],
                &mut warp.view,
                access.order,
                access.scope,
                (false, true),
                write,
            );
            observe(cx, warp, (address[lane], bytes), segment, met, false);
        }
    } else {
        let requested = bytes * u64::from(same.count_ones());
        note(cx, warp, index, &ranges, requested, What::Write, kind);
        if let Some(start) = ranges.row(bytes) {
            let at = (start - base) as usize;
            allocation.bytes().write(at, &buffer.0[..width * LANES]);
        } else {
            for lane in lanes(same) {
                let at = (address[lane] - base) as usize;
                let from = &buffer.0[lane * width..(lane + 1) * width];
                allocation.bytes().write(at, from);
            }
        }
    }
    for &(start, end, _) in ranges.all() {
        allocation.mark_initialised(start - base, end - start);
    }
    ranges.done(cx.ranges);
    if same != mask {
        return store_global(cx, block, warp, access, address, mask & !same, buffer);
    }
    Ok(())
}

// ---- loads and stores of every kind

fn load(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    mask: u32,
) -> Result<()> {
    let address = addresses(&warp.regs, access.base, access.base_wide, access.offset);
    let place = match access.place {
        Place::Generic => {
            if all_global(&address, mask) {
                return load_global(cx, block, warp, access, &address, mask);
            }
            for (place, address, mask) in places(&address, mask) {
                load_at(cx, block, warp, access, place, &address, mask)?;
            }
            return Ok(());
        }
        place => place,
    };
    load_at(cx, block, warp, access, place, &address, mask)
}

fn load_at(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    place: Place,
    address: &Addresses,
    mask: u32,
) -> Result<()> {
    let bytes = access.bytes * access.count;
    let width = bytes as usize;
    match place {
        Place::Global | Place::Generic => load_global(cx, block, warp, access, address, mask),
        Place::Shared => {
            aligned(address, mask, bytes)?;
            count_passes(cx, address, mask, bytes);
            if access.order == Order::Weak
                && let Some(rows) = words(access)
                && shape(address, mask, bytes.into()) == Shape::Row
            {
                let (start, len) = (address[0], bytes * LANES as u32);
                let at = block
                    .shared
                    .read(warp.index, start, len, cx.pc)
                    .map_err(|w| shared_fault(w, 0, start, bytes, block))?;
                let data = &block.shared.data[at..at + len as usize];
                words_to_rows(&mut warp.regs, rows, data);
                return Ok(());
            }
            let mut buffer = Buffer([0; 32 * LANES]);
            if access.order != Order::Weak {
                shared_strong(cx, block, warp, access.order, address, mask, (true, false))?;
                for lane in lanes(mask) {
                    let at = block
                        .shared
                        .atomic(warp.index, address[lane], bytes, cx.pc, true)
                        .map_err(|w| shared_fault(w, lane as u32, address[lane], bytes, block))?;
                    buffer.0[lane * width..(lane + 1) * width]
                        .copy_from_slice(&block.shared.data[at..at + width]);
                }
                cx.yield_now = true;
            } else {
                let ranges = Ranges::new(cx.ranges, address, mask, bytes.into());
                for &(start, end, lane) in ranges.all() {
                    block
                        .shared
                        .read(warp.index, start, (end - start) as u32, cx.pc)
                        .map_err(|w| shared_fault(w, lane.into(), start, bytes, block))?;
                }
                if let Some(start) = ranges.row(bytes.into()) {
                    let at = start as usize;
                    buffer.0[..width * LANES]
                        .copy_from_slice(&block.shared.data[at..at + width * LANES]);
                } else {
                    for lane in lanes(mask) {
                        let at = address[lane] as usize;
                        buffer.0[lane * width..(lane + 1) * width]
                            .copy_from_slice(&block.shared.data[at..at + width]);
                    }
                }
                ranges.done(cx.ranges);
            }
            to_registers(&mut warp.regs, access, &buffer, mask);
            Ok(())
        }
        Place::Local => {
            let mut buffer = Buffer([0; 32 * LANES]);
            aligned(address, mask, bytes)?;
            for lane in lanes(mask) {
                let at = local(cx, warp, lane, address[lane], bytes)?;
                if let Some(hole) =
                    (at..at + width).find(|&i| warp.local_init[i / 64] >> (i % 64) & 1 == 0)
                {
                    let byte = address[lane] + (hole - at) as u64;
                    return Err(uninitialised(lane as u32, byte, "local"));
                }
                buffer.0[lane * width..(lane + 1) * width]
                    .copy_from_slice(&warp.local[at..at + width]);
            }
            to_registers(&mut warp.regs, access, &buffer, mask);
            Ok(())
        }
        Place::Param => {
            let mut buffer = Buffer([0; 32 * LANES]);
            let params = &cx.grid.launch.params;
            for lane in lanes(mask) {
                let at = address[lane].wrapping_sub(PARAM_WINDOW);
                let range = at as usize..(at as usize).saturating_add(width);
                let Some(data) = params.get(range) else {
                    return Err(Fault::new(
                        Rule::OutOfBounds,
                        code::ILLEGAL_ADDRESS,
                        lane as u32,
                        format!("{bytes} bytes at {at} of {} of parameters", params.len()),
                    )
                    .at(at));
                };
                buffer.0[lane * width..(lane + 1) * width].copy_from_slice(data);
            }
            to_registers(&mut warp.regs, access, &buffer, mask);
            Ok(())
        }
    }
}

fn store(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    mask: u32,
) -> Result<()> {
    let address = addresses(&warp.regs, access.base, access.base_wide, access.offset);
    let mut buffer = Buffer([0; 32 * LANES]);
    from_registers(&warp.regs, access, &mut buffer);
    let place = match access.place {
        Place::Generic if all_global(&address, mask) => Place::Global,
        place => place,
    };
    if place != Place::Generic {
        return store_at(cx, block, warp, access, place, &address, mask, &buffer);
    }
    for (place, address, mask) in places(&address, mask) {
        store_at(cx, block, warp, access, place, &address, mask, &buffer)?;
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)] // an access, and where it goes
fn store_at(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    place: Place,
    address: &Addresses,
    mask: u32,
    buffer: &Buffer,
) -> Result<()> {
    let bytes = access.bytes * access.count;
    let width = bytes as usize;
    match place {
        Place::Global | Place::Generic => {
            store_global(cx, block, warp, access, address, mask, buffer)
        }
        Place::Shared => {
            aligned(address, mask, bytes)?;
            count_passes(cx, address, mask, bytes);
            cx.progress = true;
            if access.order != Order::Weak {
                shared_strong(cx, block, warp, access.order, address, mask, (false, true))?;
                for lane in lanes(mask) {
                    let at = block
                        .shared
                        .atomic(warp.index, address[lane], bytes, cx.pc, false)
                        .map_err(|w| shared_fault(w, lane as u32, address[lane], bytes, block))?;
                    block.shared.data[at..at + width]
                        .copy_from_slice(&buffer.0[lane * width..(lane + 1) * width]);
                }
                return Ok(());
            }
            let ranges = Ranges::new(cx.ranges, address, mask, bytes.into());
            for &(start, end, lane) in ranges.all() {
                block
                    .shared
                    .write(warp.index, start, (end - start) as u32, cx.pc)
                    .map_err(|w| shared_fault(w, lane.into(), start, bytes, block))?;
            }
            ranges.done(cx.ranges);
            for lane in lanes(mask) {
                let at = address[lane] as usize;
                block.shared.data[at..at + width]
                    .copy_from_slice(&buffer.0[lane * width..(lane + 1) * width]);
            }
            Ok(())
        }
        Place::Local => {
            aligned(address, mask, bytes)?;
            for lane in lanes(mask) {
                let at = local(cx, warp, lane, address[lane], bytes)?;
                warp.local[at..at + width]
                    .copy_from_slice(&buffer.0[lane * width..(lane + 1) * width]);
                for i in at..at + width {
                    warp.local_init[i / 64] |= 1 << (i % 64);
                }
            }
            Ok(())
        }
        Place::Param => Err(Fault::new(
            Rule::OutOfBounds,
            code::INVALID_ADDRESS_SPACE,
            mask.trailing_zeros(),
            "a store to the parameters of a kernel",
        )),
    }
}

/// Place of a local address among the local memory of the warp.
fn local(cx: &Context<'_>, warp: &Warp, lane: usize, address: u64, bytes: u32) -> Result<usize> {
    let each = u64::from(cx.grid.launch.kernel.local_bytes) + 16;
    if address < 16 || address + u64::from(bytes) > each || warp.local.is_empty() {
        return Err(Fault::new(
            Rule::OutOfBounds,
            code::ILLEGAL_ADDRESS,
            lane as u32,
            format!(
                "{bytes} bytes at {address:#x} of {} of local memory",
                each - 16
            ),
        )
        .at(address));
    }
    Ok(lane * each as usize + address as usize)
}

// ---- shared memory

fn aligned(address: &Addresses, mask: u32, bytes: u32) -> Result<()> {
    let low = u64::from(bytes - 1);
    let any = address.iter().fold(0, |all, a| all | a);
    if any & low == 0 {
        return Ok(());
    }
    let wrong = |i: usize| address[i] & low != 0;
    match lanes(mask).find(|&i| wrong(i)) {
        None => Ok(()),
        Some(lane) => Err(Fault::new(
            Rule::Misaligned,
            code::MISALIGNED_ADDRESS,
            lane as u32,
            format!("an access of {bytes} bytes at an address that is no multiple of it"),
        )
        .at(address[lane])),
    }
}

/// Passes through shared memory, with a short cut for neighbours and for one address.
#[inline(always)]
fn passes(address: &Addresses, mask: u32, bytes: u32) -> (u32, u32) {
    if mask == u32::MAX {
        let first = address[0];
        let mut apart = 0;
        let mut spread = 0;
        for i in 0..LANES {
            apart |= address[i] ^ (first + i as u64 * u64::from(bytes));
            spread |= address[i] ^ first;
        }
        if apart == 0 {
            let groups = match bytes {
                0..=4 => 1,
                _ => bytes / 4,
            };
            return (groups, 0);
        }
        if spread == 0 && bytes <= 4 {
            return (1, 0);
        }
    }
    wavefronts(address, mask, bytes)
}

/// Where the lanes of a shared access lay when its instruction last ran, and what it took.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    grid: usize,
    pc: u32,
    mask: u32,
    address: Addresses,
    passes: u32,
    conflicts: u32,
}

impl Default for Pattern {
    fn default() -> Pattern {
        Pattern {
            grid: 0,
            pc: u32::MAX,
            mask: 0,
            address: [0; LANES],
            passes: 0,
            conflicts: 0,
        }
    }
}

wide! {
/// Whether all lanes moved by the same multiple of a row of the banks: banks and words that
/// meet are then the same.
fn moved(from: &Addresses, to: &Addresses, mask: u32) -> bool {
    let first = mask.trailing_zeros() as usize % LANES;
    let by = to[first].wrapping_sub(from[first]);
    let mut apart = 0;
    for i in 0..LANES {
        let taken = u64::from(mask >> i & 1).wrapping_neg();
        apart |= (to[i].wrapping_sub(from[i]) ^ by) & taken;
    }
    apart == 0 && by.is_multiple_of(128)
}
}

/// Counts the passes of a shared access. A loop repeats its patterns, so each is worked out once.
#[inline(always)]
fn count_passes(cx: &mut Context<'_>, address: &Addresses, mask: u32, bytes: u32) {
    let at = cx.pc as usize % cx.patterns.len();
    let pattern = &mut cx.patterns[at];
    let key = (cx.grid.index, cx.pc, mask);
    if (pattern.grid, pattern.pc, pattern.mask) != key || !moved(&pattern.address, address, mask) {
        let (passes, conflicts) = passes(address, mask, bytes);
        *pattern = Pattern {
            grid: cx.grid.index,
            pc: cx.pc,
            mask,
            address: *address,
            passes,
            conflicts,
        };
    }
    cx.counts.wavefronts += u64::from(pattern.passes);
    cx.counts.conflicts += u64::from(pattern.conflicts);
}

fn shared_fault(wrong: Wrong, lane: u32, address: u64, bytes: u32, block: &Block) -> Box<Fault> {
    match wrong {
        Wrong::Bounds => Fault::new(
            Rule::OutOfBounds,
            code::ILLEGAL_ADDRESS,
            lane,
            format!(
                "{bytes} bytes at {address:#x} of shared memory, of which the block has {:#x} to \
                 {:#x}",
                super::decode::SHARED_START,
                block.shared.data.len()
            ),
        )
        .at(address),
        Wrong::Uninitialised(byte) => uninitialised(lane, byte.into(), "shared"),
        Wrong::Pending(byte) => Fault::new(
            Rule::Pending,
            code::LAUNCH_FAILED,
            lane,
            "shared memory that a `cp.async` writes, which was not waited for",
        )
        .at(byte.into()),
    }
}

/// Order of atomics and volatile accesses on shared memory.
fn shared_strong(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    order: Order,
    address: &Addresses,
    mask: u32,
    kind: (bool, bool),
) -> Result<()> {
    close(cx, block, warp)?;
    for lane in lanes(mask) {
        // no global address has these bits
        let name = 1 << 63 | u64::from(block.number) << 32 | address[lane];
        cx.run
            .locations
            .access(name, &mut warp.view, order, Scope::Block, kind, || ());
    }
    warp.view.advance();
    Ok(())
}

// ---- atomics

fn atomic(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    atomic: &Atomic,
    mask: u32,
) -> Result<()> {
    let address = addresses(&warp.regs, atomic.base, atomic.base_wide, atomic.offset);
    match atomic.place {
        Place::Global => atomic_global(cx, block, warp, atomic, &address, mask),
        Place::Shared => atomic_shared(cx, block, warp, atomic, &address, mask),
        _ => {
            for (place, address, mask) in places(&address, mask) {
                match place {
                    Place::Global => atomic_global(cx, block, warp, atomic, &address, mask)?,
                    Place::Shared => atomic_shared(cx, block, warp, atomic, &address, mask)?,
                    _ => {
                        return Err(Fault::new(
                            Rule::OutOfBounds,
                            code::INVALID_ADDRESS_SPACE,
                            mask.trailing_zeros(),
                            "an atomic on local memory",
                        ));
                    }
                }
            }
            Ok(())
        }
    }
}

/// Operands of a lane.
fn atomic_operands(regs: &Regs, atomic: &Atomic, lane: usize) -> (u64, u64) {
    let value = |row: u16| {
        if row == NONE {
            0
        } else if atomic.ty.bytes() == 8 {
            u64::get(regs, row)[lane]
        } else {
            u64::from(regs.rows[row as usize].0[lane])
        }
    };
    (value(atomic.b), value(atomic.c))
}

fn keep_old(regs: &mut Regs, atomic: &Atomic, lane: usize, old: u64) {
    if atomic.d == NONE {
        return;
    }
    let mask = 1 << lane;
    if atomic.ty.bytes() == 8 {
        u64::put(regs, atomic.d, &[old; LANES], mask);
    } else {
        u32::put(regs, atomic.d, &[old as u32; LANES], mask);
    }
}

fn atomic_global(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    atomic: &Atomic,
    address: &Addresses,
    mask: u32,
) -> Result<()> {
    let bytes = u64::from(atomic.ty.bytes());
    let (index, allocation, same, ranges) = find(cx, warp, address, mask, bytes)?;
    check_initialised(allocation, &ranges, address, same, bytes)?;
    close(cx, block, warp)?;
    let kind = kind_of(Order::Relaxed, atomic.scope, true);
    let requested = bytes * u64::from(same.count_ones());
    note(cx, warp, index, &ranges, requested, What::Atomic, kind);
    let segment = warp.view.segment;
    let mut changed = false;
    for lane in lanes(same) {
        let at = (address[lane] - allocation.base()) as usize;
        let (b, c) = atomic_operands(&warp.regs, atomic, lane);
        let operate = || {
            if bytes == 8 {
                let cell = allocation.bytes().atomic_u64(at);
                let update = |old| Some(combine(atomic, old, b, c));
                let old = cell
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
                    .unwrap_or_else(|old| old);
                (old, combine(atomic, old, b, c) != old)
            } else if bytes == 4 {
                let cell = allocation.bytes().atomic_u32(at);
                let update = |old: u32| Some(combine(atomic, old.into(), b, c) as u32);
                let old = cell
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
                    .unwrap_or_else(|old| old);
                (old.into(), combine(atomic, old.into(), b, c) as u32 != old)
            } else {
                // 16 bits within their word
                let shift = 8 * (at as u32 % 4);
                let half = |word: u32| u64::from(word >> shift & 0xffff);
                // an allocation may end with half a word: its memory does not
                let cell = allocation.bytes().atomic_u32(at / 4 * 4);
                let update = |word: u32| {
                    let new = combine(atomic, half(word), b, c) as u32 & 0xffff;
                    Some(word & !(0xffff << shift) | new << shift)
                };
                let old = cell
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
                    .unwrap_or_else(|old| old);
                (half(old), true)
            }
        };
        let ((old, new), met) = cx.run.locations.access(
            address[lane],
            &mut warp.view,
            atomic.order,
            atomic.scope,
            (true, true),
            operate,
        );
        observe(cx, warp, (address[lane], bytes), segment, met, !new);
        changed |= new;
        keep_old(&mut warp.regs, atomic, lane, old);
    }
    cx.progress |= changed;
    if !changed {
        cx.yield_now = true;
    }
    if same != mask {
        return atomic_global(cx, block, warp, atomic, address, mask & !same);
    }
    Ok(())
}

fn atomic_shared(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    atomic: &Atomic,
    address: &Addresses,
    mask: u32,
) -> Result<()> {
    let bytes = atomic.ty.bytes();
    let width = bytes as usize;
    aligned(address, mask, bytes)?;
    count_passes(cx, address, mask, bytes);
    shared_strong(cx, block, warp, atomic.order, address, mask, (true, true))?;
    let mut changed = false;
    for lane in lanes(mask) {
        let at = block
            .shared
            .atomic(warp.index, address[lane], bytes, cx.pc, true)
            .map_err(|w| shared_fault(w, lane as u32, address[lane], bytes, block))?;
        let (b, c) = atomic_operands(&warp.regs, atomic, lane);
        let mut data = [0; 8];
        data[..width].copy_from_slice(&block.shared.data[at..at + width]);
        let old = u64::from_le_bytes(data);
        let new = combine(atomic, old, b, c);
        block.shared.data[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
        changed |= new != old;
        keep_old(&mut warp.regs, atomic, lane, old);
    }
    cx.progress |= changed;
    if !changed {
        cx.yield_now = true;
    }
    Ok(())
}

/// What an atomic leaves in memory.
fn combine(atomic: &Atomic, old: u64, b: u64, c: u64) -> u64 {
    use super::float::*;
    use AtomicOp::*;
    use Type::*;
    let halves = |f: &dyn Fn(u16, u16) -> u16| {
        u64::from(f(old as u16, b as u16))
            | u64::from(f((old >> 16) as u16, (b >> 16) as u16)) << 16
    };
    let half = |a: u16, b: u16| f32_to_f16(f16_to_f32(a) + f16_to_f32(b));
    let brain = |a: u16, b: u16| f32_to_bf16(bf16_to_f32(a) + bf16_to_f32(b));
    match (atomic.op, atomic.ty) {
        (Add, U32 | S32) => u64::from((old as u32).wrapping_add(b as u32)),
        (Add, U64) => old.wrapping_add(b),
        // on memory, f32 additions keep denormals only in shared memory; none here depend on it
        (Add, F32) => {
            let sum = f32::from_bits(old as u32) + f32::from_bits(b as u32);
            canon(sum).to_bits().into()
        }
        (Add, F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Add, F16) => half(old as u16, b as u16).into(),
        (Add, Bf16) => brain(old as u16, b as u16).into(),
        (Add, F16x2) => halves(&half),
        (Add, _) => halves(&brain),
        (Min, U32) => u64::from((old as u32).min(b as u32)),
        (Min, S32) => u64::from((old as i32).min(b as i32) as u32),
        (Min, U64) => old.min(b),
        (Min, _) => (old as i64).min(b as i64) as u64,
        (Max, U32) => u64::from((old as u32).max(b as u32)),
        (Max, S32) => u64::from((old as i32).max(b as i32) as u32),
        (Max, U64) => old.max(b),
        (Max, _) => (old as i64).max(b as i64) as u64,
        (And, _) => old & b,
        (Or, _) => old | b,
        (Xor, _) => old ^ b,
        (Exch, _) => b,
        (Cas, B16) if old as u16 == b as u16 => c & 0xffff,
        (Cas, B32) if old as u32 == b as u32 => c,
        (Cas, B64) if old == b => c,
        (Cas, _) => old,
        (Inc, _) => {
            if old as u32 >= b as u32 {
                0
            } else {
                u64::from(old as u32 + 1)
            }
        }
        (Dec, _) => {
            if old as u32 == 0 || old as u32 > b as u32 {
                u64::from(b as u32)
            } else {
                u64::from(old as u32 - 1)
            }
        }
    }
}

// ---- matrices

fn matrix(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    matrix: &Matrix,
    mask: u32,
) -> Result<()> {
    whole(
        warp,
        mask,
        if matrix.store { "stmatrix" } else { "ldmatrix" },
    )?;
    let mut address = addresses(&warp.regs, matrix.base, matrix.base_wide, matrix.offset);
    if matrix.generic {
        for lane in 0..LANES {
            let used = lane < 8 * matrix.count;
            if used && generic(address[lane]) != Place::Shared {
                return Err(Fault::new(
                    Rule::OutOfBounds,
                    code::INVALID_ADDRESS_SPACE,
                    lane as u32,
                    "a matrix outside shared memory",
                )
                .at(address[lane]));
            }
            address[lane] = address[lane].wrapping_sub(SHARED_WINDOW);
        }
    }
    let used = if matrix.count == 4 {
        u32::MAX
    } else {
        (1 << (8 * matrix.count)) - 1
    };
    aligned(&address, used, 16)?;
    count_passes(cx, &address, used, 16);
    for lane in lanes(used) {
        let at = address[lane];
        let checked = if matrix.store {
            block.shared.write(warp.index, at, 16, cx.pc)
        } else {
            block.shared.read(warp.index, at, 16, cx.pc)
        };
        checked.map_err(|w| shared_fault(w, lane as u32, at, 16, block))?;
    }
    for m in 0..matrix.count {
        if matrix.store {
            let values = u32::get(&warp.regs, matrix.data[m]);
            for row in 0..8 {
                let at = address[8 * m + row] as usize;
                for column in 0..8 {
                    let half = mma::element_of_matrix(&values, row, column, matrix.transposed);
                    block.shared.data[at + 2 * column..at + 2 * column + 2]
                        .copy_from_slice(&half.to_le_bytes());
                }
            }
            cx.progress = true;
        } else if !matrix.transposed {
            // four neighbours of a row for each of four lanes: a row of 16 bytes as it lies
            let values = &mut warp.regs.rows[matrix.data[m] as usize].0;
            for (row, words) in values.chunks_exact_mut(4).enumerate() {
                let at = address[8 * m + row] as usize;
                let data: &[u8] = &block.shared.data[at..at + 16];
                words.copy_from_slice(&bytemuck::pod_read_unaligned::<[u32; 4]>(data));
            }
        } else {
            let mut rows = [[0u16; 8]; 8];
            for (row, out) in rows.iter_mut().enumerate() {
                let at = address[8 * m + row] as usize;
                for (column, half) in out.iter_mut().enumerate() {
                    let at = at + 2 * column;
                    *half = u16::from_le_bytes([block.shared.data[at], block.shared.data[at + 1]]);
                }
            }
            let values = mma::matrix_to_lanes(&rows, true);
            u32::put(&mut warp.regs, matrix.data[m], &values, u32::MAX);
        }
    }
    Ok(())
}

// ---- cp.async

fn cp_async(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    copy: &CpAsync,
    mask: u32,
) -> Result<()> {
    let mut to = addresses(&warp.regs, copy.to, copy.to_wide, copy.to_offset);
    if copy.generic {
        to = to.map(|a| a.wrapping_sub(SHARED_WINDOW));
    }
    let from = addresses(&warp.regs, copy.from, true, copy.from_offset);
    let bytes = copy.bytes;
    let width = bytes as usize;
    aligned(&to, mask, bytes)?;
    // bytes of the source of each lane; the rest of the target is zero
    let mut sizes = [bytes; LANES];
    if copy.source != NONE {
        let source = u32::get(&warp.regs, copy.source);
        for lane in lanes(mask) {
            if source[lane] > bytes {
                return Err(Fault::new(
                    Rule::Undefined,
                    code::ILLEGAL_INSTRUCTION,
                    lane as u32,
                    format!("a copy of {} of {bytes} bytes", source[lane]),
                ));
            }
            sizes[lane] = source[lane];
        }
    }
    if copy.ignore != NONE {
        let ignore =
            warp.regs.preds[copy.ignore as usize] ^ if copy.ignore_negated { u32::MAX } else { 0 };
        for lane in lanes(mask & ignore) {
            sizes[lane] = 0;
        }
    }
    let mut buffer = Buffer([0; 32 * LANES]);
    let mut rest = lanes(mask)
        .filter(|&i| sizes[i] == bytes)
        .fold(0u32, |m, i| m | 1 << i);
    while rest != 0 {
        let (index, allocation, same, ranges) = find(cx, warp, &from, rest, bytes.into())?;
        check_initialised(allocation, &ranges, &from, same, bytes.into())?;
        let requested = u64::from(bytes) * u64::from(same.count_ones());
        note(cx, warp, index, &ranges, requested, What::Read, Kind::Read);
        ranges.done(cx.ranges);
        for lane in lanes(same) {
            let at = (from[lane] - allocation.base()) as usize;
            let to = &mut buffer.0[lane * width..(lane + 1) * width];
            if let Ok(to) = <&mut [u8; 16]>::try_from(&mut *to) {
                *to = allocation.bytes().array(at);
            } else {
                allocation.bytes().read(at, to);
            }
        }
        rest &= !same;
    }
    for lane in lanes(mask).filter(|&i| sizes[i] != bytes && sizes[i] != 0) {
        // a part of the bytes: as single bytes, whose address must be aligned all the same
        let lane_mask = 1 << lane;
        aligned(&from, lane_mask, bytes)?;
        let (index, allocation, ..) = find(cx, warp, &from, lane_mask, 1)?;
        let offset = from[lane] - allocation.base();
        let size = u64::from(sizes[lane]);
        if offset + size > allocation.len() {
            return Err(outside(cx, from[lane], lane as u32, size));
        }
        let ranges = Ranges::new(cx.ranges, &from, lane_mask, size);
        check_initialised(allocation, &ranges, &from, lane_mask, size)?;
        note(cx, warp, index, &ranges, size, What::Read, Kind::Read);
        let to = &mut buffer.0[lane * width..lane * width + size as usize];
        allocation.bytes().read(offset as usize, to);
    }
    count_passes(cx, &to, mask, bytes);
    for lane in lanes(mask) {
        let at = block
            .shared
            .begin_copy(warp.index, to[lane], bytes, cx.pc)
            .map_err(|w| shared_fault(w, lane as u32, to[lane], bytes, block))?;
        block.shared.data[at..at + width]
            .copy_from_slice(&buffer.0[lane * width..(lane + 1) * width]);
        warp.copies.push(Copy {
            lane: lane as u8,
            group: warp.groups[lane],
            at: at as u32,
            bytes,
            pc: cx.pc,
        });
    }
    Ok(())
}

/// Ends the copies of the lanes of `mask` for which `over` holds.
fn wait(block: &mut Block, warp: &mut Warp, mask: u32, over: impl Fn(&Warp, &Copy) -> bool) {
    let mut copies = std::mem::take(&mut warp.copies);
    copies.retain(|copy| {
        let over = mask >> copy.lane & 1 == 1 && over(warp, copy);
        if over {
            block
                .shared
                .end_copy(warp.index, copy.at, copy.bytes, copy.pc);
        }
        !over
    });
    warp.copies = copies;
}

// ---- mbarriers: an opaque word of 64 bits in shared memory

/// Fields of the word: arrivals still missing, arrivals of a phase, bytes still missing (biased),
/// and the phase in the top bit.
#[derive(Debug, Clone, Copy)]
struct Phase {
    missing: u32,
    count: u32,
    bytes: i32,
    parity: bool,
}

const BYTES_BIAS: i32 = 1 << 20;
/// Marks a word as an mbarrier; together with the fields it fills 64 bits.
const COUNT_BITS: u32 = 20;

impl Phase {
    fn unpack(word: u64) -> Phase {
        Phase {
            missing: word as u32 & 0xf_ffff,
            count: (word >> COUNT_BITS) as u32 & 0xf_ffff,
            bytes: (word >> 40 & 0x1f_ffff) as i32 - BYTES_BIAS,
            parity: word >> 63 == 1,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.missing)
            | u64::from(self.count) << COUNT_BITS
            | ((self.bytes + BYTES_BIAS) as u64) << 40
            | u64::from(self.parity) << 63
    }

    /// The next phase begins when nothing is missing.
    fn turn(mut self) -> Phase {
        if self.missing == 0 && self.bytes == 0 {
            self.parity = !self.parity;
            self.missing = self.count;
        }
        self
    }
}

fn mbarrier(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    op: &Mbarrier,
    mask: u32,
) -> Result<()> {
    use MbarrierOp::*;
    if op.op == Pending {
        let state = u64::get(&warp.regs, op.value);
        let r = state.map(|s| Phase::unpack(s).missing);
        if op.d != NONE {
            u32::put(&mut warp.regs, op.d, &r, mask);
        }
        return Ok(());
    }
    let mut address = addresses(&warp.regs, op.base, op.base_wide, op.offset);
    if op.generic {
        address = address.map(|a| a.wrapping_sub(SHARED_WINDOW));
    }
    aligned(&address, mask, 8)?;
    if matches!(op.op, CpAsync | CpAsyncNoInc) {
        // the copies of the thread end here, in the segment that the arrival publishes
        wait(block, warp, mask, |_, _| true);
    }
    close(cx, block, warp)?;
    let mut done = 0u32;
    for lane in lanes(mask) {
        let reads = op.op != Init;
        let at = block
            .shared
            .atomic(warp.index, address[lane], 8, cx.pc, reads)
            .map_err(|w| shared_fault(w, lane as u32, address[lane], 8, block))?;
        let mut data = [0; 8];
        data.copy_from_slice(&block.shared.data[at..at + 8]);
        let word = u64::from_le_bytes(data);
        let value = match (op.value, op.op) {
            (NONE, _) => 0,
            (row, Test) => u64::get(&warp.regs, row)[lane],
            (row, _) => u64::from(warp.regs.rows[row as usize].0[lane]),
        };
        let bad = |message: String| {
            Fault::new(
                Rule::Undefined,
                code::ILLEGAL_INSTRUCTION,
                lane as u32,
                message,
            )
            .at(address[lane])
        };
        let mut phase = Phase::unpack(word);
        let old = word;
        let key = at as u32;
        match op.op {
            Init => {
                if value == 0 || value >= 1 << COUNT_BITS {
                    return Err(bad(format!("an mbarrier of {value} arrivals")));
                }
                phase = Phase {
                    missing: value as u32,
                    count: value as u32,
                    bytes: 0,
                    parity: false,
                };
                block.shared.mbarriers.insert(key, [0; super::order::WARPS]);
            }
            Inval => {
                block.shared.mbarriers.remove(&key);
            }
            _ if !block.shared.mbarriers.contains_key(&key) => {
                return Err(bad("an mbarrier that was not initialised".to_owned()));
            }
            Arrive | ArriveDrop | ArriveExpect | CpAsync | CpAsyncNoInc => {
                let count = match op.op {
                    Arrive | ArriveDrop => value as u32,
                    // counts itself in first
                    CpAsync => 0,
                    _ => 1,
                };
                if op.op == ArriveExpect {
                    phase.bytes += value as i32;
                }
                if count > phase.missing {
                    return Err(bad(format!(
                        "{count} arrivals at an mbarrier that misses {}",
                        phase.missing
                    )));
                }
                phase.missing -= count;
                if op.op == ArriveDrop {
                    phase.count -= count;
                }
                phase = phase.turn();
                if let Some(clocks) = block.shared.mbarriers.get_mut(&key) {
                    for (a, b) in clocks.iter_mut().zip(&warp.view.clocks) {
                        *a = (*a).max(*b);
                    }
                }
                cx.progress = true;
            }
            Expect => phase.bytes += value as i32,
            Complete => {
                phase.bytes -= value as i32;
                phase = phase.turn();
                cx.progress = true;
            }
            Test | TestParity => {
                // a phase is over when the current one is another
                let over = if op.op == Test {
                    Phase::unpack(value).parity != phase.parity
                } else {
                    (value & 1 == 1) != phase.parity
                };
                done |= u32::from(over) << lane;
            }
            Pending => {}
        }
        block.shared.data[at..at + 8].copy_from_slice(&phase.pack().to_le_bytes());
        if op.d != NONE && !matches!(op.op, Test | TestParity) {
            u64::put(&mut warp.regs, op.d, &[old; LANES], 1 << lane);
        }
    }
    if matches!(op.op, Test | TestParity) {
        if op.d != NONE {
            warp.regs.put_pred(op.d, done, mask);
        }
        if done & mask == mask && op.acquires {
            for lane in lanes(mask) {
                if let Some(clocks) = block.shared.mbarriers.get(&(address[lane] as u32)) {
                    warp.view
                        .join(&clocks.clone(), &super::order::Known::default());
                }
            }
        } else if done == 0 {
            cx.yield_now = true;
        }
    }
    warp.view.advance();
    Ok(())
}
