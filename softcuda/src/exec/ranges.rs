//! The addresses of a warp's lanes, and the ranges that they make.

use super::lanes::{LANES, wide};

/// An address for each lane.
pub(super) type Addresses = [u64; LANES];

/// The lanes of a mask, in order.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            lane
        })
    })
}

/// Ranges that a warp's lanes touch, neighbours joined: start, end, first lane.
pub(super) enum Ranges {
    One([(u64, u64, u8); 1]),
    Many(RangeList),
}

/// A list that is kept for the next access.
pub(super) type RangeList = Vec<(u64, u64, u8)>;

/// How the addresses of a whole warp lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One behind the other.
    Row,
    /// All the same.
    Point,
    Other,
}

wide! {
pub(super) fn shape(address: &Addresses, mask: u32, bytes: u64) -> Shape {
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
    pub(super) fn new(spare: &mut RangeList, address: &Addresses, mask: u32, bytes: u64) -> Ranges {
        Ranges::of(spare, shape(address, mask, bytes), address, mask, bytes)
    }

    #[inline(always)]
    pub(super) fn of(
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
    pub(super) fn all(&self) -> &[(u64, u64, u8)] {
        match self {
            Ranges::One(one) => one,
            Ranges::Many(many) => many,
        }
    }

    /// Keeps the list for the next access.
    #[inline(always)]
    pub(super) fn done(self, spare: &mut RangeList) {
        if let Ranges::Many(list) = self {
            *spare = list;
        }
    }

    /// Start of the range in which all 32 lanes lie one behind the other.
    #[inline(always)]
    pub(super) fn row(&self, bytes: u64) -> Option<u64> {
        match self {
            Ranges::One([(start, end, _)]) if end - start == bytes * 32 => Some(*start),
            _ => None,
        }
    }
}
