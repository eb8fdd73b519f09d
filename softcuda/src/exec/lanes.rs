//! Registers of a warp, and the loops over its 32 lanes.
//!
//! A 32-bit register is one row of 32 lanes, a 64-bit one two rows that hold 32 wide lanes, a
//! 128-bit one the two 64-bit ones of its halves, a predicate one bit per lane. Instructions compute
//! all lanes and keep those of the mask, so that the loops have a fixed length and no branch and the
//! compiler turns them into vector code.

use bytemuck::{Pod, Zeroable};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// One 32-bit register of a warp.
#[derive(Debug, Clone, Copy, Pod, Zeroable, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Row(pub [u32; LANES]);

/// The register file of a warp.
#[derive(Debug)]
pub(crate) struct Regs {
    pub rows: Vec<Row>,
    pub preds: Vec<u32>,
    /// Seed by which `.approx` results are perturbed; 0: not at all.
    pub approx: u64,
}

/// Where an instruction of lanes finds its operands: row numbers, or predicate numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slots {
    pub d: u16,
    pub a: u16,
    pub b: u16,
    pub c: u16,
    /// A second result, or an immediate of the instruction.
    pub x: u32,
}

/// An instruction that touches nothing but registers.
pub(crate) type LaneFn = unsafe fn(&mut Regs, &Slots, u32);

/// What a lane holds.
pub(crate) trait Value: Copy + Pod {
    fn get(regs: &Regs, slot: u16) -> [Self; LANES];
    fn put(regs: &mut Regs, slot: u16, values: &[Self; LANES], mask: u32);
}

macro_rules! value32 {
    ($($ty:ty),*) => {$(
        impl Value for $ty {
            #[inline(always)]
            fn get(regs: &Regs, slot: u16) -> [Self; LANES] {
                bytemuck::cast(regs.rows[slot as usize])
            }
            #[inline(always)]
            fn put(regs: &mut Regs, slot: u16, values: &[Self; LANES], mask: u32) {
                let row: &mut [Self; LANES] = bytemuck::cast_mut(&mut regs.rows[slot as usize]);
                blend(row, values, mask);
            }
        }
    )*};
}
value32!(u32, i32, f32);

macro_rules! value64 {
    ($($ty:ty),*) => {$(
        impl Value for $ty {
            #[inline(always)]
            fn get(regs: &Regs, slot: u16) -> [Self; LANES] {
                let slot = slot as usize;
                bytemuck::cast([regs.rows[slot], regs.rows[slot + 1]])
            }
            #[inline(always)]
            fn put(regs: &mut Regs, slot: u16, values: &[Self; LANES], mask: u32) {
                let slot = slot as usize;
                let Some(rows) = regs.rows[slot..].first_chunk_mut::<2>() else {
                    return;
                };
                blend(bytemuck::cast_mut::<[Row; 2], [Self; LANES]>(rows), values, mask);
            }
        }
    )*};
}
value64!(u64, i64, f64);

macro_rules! value_narrow {
    ($($ty:ty: $unsigned:ty),*) => {$(
        impl Value for $ty {
            #[inline(always)]
            fn get(regs: &Regs, slot: u16) -> [Self; LANES] {
                let row = &regs.rows[slot as usize].0;
                let mut values = [0; LANES];
                for i in 0..LANES {
                    values[i] = row[i] as $ty;
                }
                values
            }
            #[inline(always)]
            fn put(regs: &mut Regs, slot: u16, values: &[Self; LANES], mask: u32) {
                let mut wide = [0; LANES];
                for i in 0..LANES {
                    wide[i] = values[i] as $unsigned as u32;
                }
                blend(&mut regs.rows[slot as usize].0, &wide, mask);
            }
        }
    )*};
}
value_narrow!(u16: u16, i16: u16, u8: u8, i8: u8);

/// One value for each lane. Unlike `std::array::from_fn` it is always part of its caller, and so
/// compiled for the processor that the caller is compiled for.
#[inline(always)]
pub(crate) fn each<T: Pod>(f: impl Fn(usize) -> T) -> [T; LANES] {
    let mut values = [T::zeroed(); LANES];
    for i in 0..LANES {
        values[i] = f(i);
    }
    values
}

#[inline(always)]
fn blend<T: Pod>(row: &mut [T; LANES], values: &[T; LANES], mask: u32) {
    if mask == u32::MAX {
        *row = *values;
    } else {
        let mut new = *row;
        for i in 0..LANES {
            let old = new[i];
            new[i] = if mask & (1 << i) != 0 { values[i] } else { old };
        }
        *row = new;
    }
}

#[inline(always)]
pub(crate) fn map1<A: Value, R: Value>(
    regs: &mut Regs,
    slots: &Slots,
    mask: u32,
    f: impl Fn(A) -> R,
) {
    let a = A::get(regs, slots.a);
    let mut r = [R::zeroed(); LANES];
    for i in 0..LANES {
        r[i] = f(a[i]);
    }
    R::put(regs, slots.d, &r, mask);
}

#[inline(always)]
pub(crate) fn map2<A: Value, B: Value, R: Value>(
    regs: &mut Regs,
    slots: &Slots,
    mask: u32,
    f: impl Fn(A, B) -> R,
) {
    let (a, b) = (A::get(regs, slots.a), B::get(regs, slots.b));
    let mut r = [R::zeroed(); LANES];
    for i in 0..LANES {
        r[i] = f(a[i], b[i]);
    }
    R::put(regs, slots.d, &r, mask);
}

#[inline(always)]
pub(crate) fn map3<A: Value, B: Value, C: Value, R: Value>(
    regs: &mut Regs,
    slots: &Slots,
    mask: u32,
    f: impl Fn(A, B, C) -> R,
) {
    let (a, b) = (A::get(regs, slots.a), B::get(regs, slots.b));
    let c = C::get(regs, slots.c);
    let mut r = [R::zeroed(); LANES];
    for i in 0..LANES {
        r[i] = f(a[i], b[i], c[i]);
    }
    R::put(regs, slots.d, &r, mask);
}

/// Lanes of which `f` holds, as bits.
#[inline(always)]
pub(crate) fn test<A: Value, B: Value>(
    regs: &Regs,
    slots: &Slots,
    f: impl Fn(A, B) -> bool,
) -> u32 {
    let (a, b) = (A::get(regs, slots.a), B::get(regs, slots.b));
    let mut bits = [0u32; LANES];
    for i in 0..LANES {
        bits[i] = u32::from(f(a[i], b[i])) << i;
    }
    bits.iter().fold(0, |all, bit| all | bit)
}

impl Regs {
    #[inline(always)]
    pub fn put_pred(&mut self, slot: u16, value: u32, mask: u32) {
        let pred = &mut self.preds[slot as usize];
        *pred = (*pred & !mask) | (value & mask);
    }
}

/// An instruction of lanes as a type, so that it can be compiled for several processors.
pub(crate) trait Run {
    fn run(regs: &mut Regs, slots: &Slots, mask: u32);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
fn run_wide<R: Run>(regs: &mut Regs, slots: &Slots, mask: u32) {
    R::run(regs, slots, mask);
}

fn run_plain<R: Run>(regs: &mut Regs, slots: &Slots, mask: u32) {
    R::run(regs, slots, mask);
}

/// Whether the processor has what [`run_wide`] is compiled for.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_wide() -> bool {
    use std::sync::LazyLock;
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt")
    });
    *HAS
}

/// Runs a function compiled for this processor: `wide!(name(arguments: types) -> result: body)`
/// defines `name`, whose body must be made of code that is always inlined.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $r:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $r)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn plain($($arg: $ty),*) $(-> $r)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
                #[allow(clippy::too_many_arguments)]
                fn wide($($arg: $ty),*) $(-> $r)? {
                    plain($($arg),*)
                }
                if $crate::exec::lanes::has_wide() {
                    // SAFETY: the processor has the features, as just asked
                    return unsafe { wide($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}
pub(crate) use wide;

/// The version of `R` for this processor.
pub(crate) fn pick<R: Run>() -> LaneFn {
    #[cfg(target_arch = "x86_64")]
    if has_wide() {
        return run_wide::<R>;
    }
    run_plain::<R>
}

/// `lanes!(f32: |a, b| a + b)` or `lanes!(u16, u16 -> u32: |a, b| ...)`: a [`LaneFn`] from a
/// function of one lane.
macro_rules! lanes {
    ($t:ty: |$a:ident| $e:expr) => { lanes!($t => $t: |$a| $e) };
    ($t:ty: |$a:ident, $b:ident| $e:expr) => { lanes!($t, $t => $t: |$a, $b| $e) };
    ($t:ty: |$a:ident, $b:ident, $c:ident| $e:expr) => {
        lanes!($t, $t, $t => $t: |$a, $b, $c| $e)
    };
    ($ta:ty => $r:ty: |$a:ident| $e:expr) => {
        lanes!(@ |regs, slots, mask| {
            $crate::exec::lanes::map1::<$ta, $r>(regs, slots, mask, #[inline(always)] |$a| $e)
        })
    };
    ($ta:ty, $tb:ty => $r:ty: |$a:ident, $b:ident| $e:expr) => {
        lanes!(@ |regs, slots, mask| {
            $crate::exec::lanes::map2::<$ta, $tb, $r>(
                regs, slots, mask, #[inline(always)] |$a, $b| $e)
        })
    };
    ($ta:ty, $tb:ty, $tc:ty => $r:ty: |$a:ident, $b:ident, $c:ident| $e:expr) => {
        lanes!(@ |regs, slots, mask| {
            $crate::exec::lanes::map3::<$ta, $tb, $tc, $r>(
                regs, slots, mask, #[inline(always)] |$a, $b, $c| $e)
        })
    };
    (@ |$regs:ident, $slots:ident, $mask:ident| $body:expr) => {{
        struct This;
        impl $crate::exec::lanes::Run for This {
            #[inline(always)]
            fn run(
                $regs: &mut $crate::exec::lanes::Regs,
                $slots: &$crate::exec::lanes::Slots,
                $mask: u32,
            ) {
                $body
            }
        }
        $crate::exec::lanes::pick::<This>()
    }};
}
pub(crate) use lanes;
