//! From a token tree to the rows of passes, on the host.

use super::layout::{MAX_PATH, MAX_ROWS, Rows};
use crate::tree::TokenTree;
use bytemuck::Zeroable;

/// Where the positions of a row are that are not in the slot of their number.
pub(super) struct Slots {
    /// Of the row itself.
    position: usize,
    /// The first position that lies elsewhere, or the one after the row's own.
    shared: usize,
    /// Slots of the positions shared..=position.
    path: Vec<usize>,
}

/// What each row of a tree sees, `committed` positions before it.
pub(super) fn slots(tree: &TokenTree, behind: &[usize], committed: usize) -> Vec<Slots> {
    let mut slots: Vec<Slots> = Vec::with_capacity(tree.len());
    for (row, position) in tree.positions(behind, committed).into_iter().enumerate() {
        let (shared, mut path) = match tree.parent(row) {
            None => (position, Vec::new()),
            Some(parent) => (slots[parent].shared, slots[parent].path.clone()),
        };
        // a row on its own trunk has every position in the slot of that number
        let stays = path.is_empty() && committed + row == position;
        if !stays {
            path.push(committed + row);
        }
        slots.push(Slots {
            position,
            shared: shared + usize::from(stays),
            path,
        });
    }
    slots
}

/// How many of the rows fit one sweep: positions from where the first of them leaves its trunk
/// must have room in the path of each.
pub(super) fn fit(slots: &[Slots]) -> usize {
    let (mut shared, mut last) = (usize::MAX, 0);
    let mut some = slots.iter().take(MAX_ROWS);
    let mut fits = |s: &Slots| {
        if !s.path.is_empty() {
            shared = shared.min(s.shared);
        }
        last = last.max(s.position + 1);
        last.saturating_sub(shared) <= MAX_PATH
    };
    some.position(|s| !fits(s))
        .unwrap_or(slots.len().min(MAX_ROWS))
}

/// What the rows of a sweep are, the first of them in slot `base`, and the slots of the positions
/// that lie elsewhere.
pub(super) fn views(tokens: &[u32], slots: &[Slots], base: usize) -> (Rows, Vec<i32>) {
    let strays = slots.iter().filter(|s| !s.path.is_empty());
    let shared = strays.map(|s| s.shared).min();
    let shared = shared.unwrap_or(base + slots.len());
    let mut rows = Rows::zeroed();
    rows.rows = slots.len() as i32;
    rows.base = base as i32;
    rows.shared = shared as i32;
    let mut paths: Vec<i32> = Vec::new();
    for (r, (row, &token)) in slots.iter().zip(tokens).enumerate() {
        rows.token[r] = token as i32;
        rows.position[r] = row.position as i32;
        rows.path_at[r] = paths.len() as i32;
        let trunk = (shared..row.shared).map(|slot| slot as i32);
        paths.extend(trunk.chain(row.path.iter().map(|&slot| slot as i32)));
    }
    (rows, paths)
}
