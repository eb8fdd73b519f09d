//! Where randomness comes from.

use super::law::Remaining;
use super::mass::Mass;
use super::math::Real;

/// What a random number is used for; part of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Use {
    /// The drafter draws a row's child.
    Draft = 0,
    /// The lossless rule tests a node (block: its eta).
    Accept = 1,
    /// The target's own token after all children of a row were rejected.
    Residual = 2,
    /// The target's own token after a row without children.
    Bonus = 3,
    /// A lossy coin about a node (synthetic, sglang).
    Coin = 4,
}

/// The place of one random number within a step: no two decisions share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Row of the target pass: 0 is the last committed token, n + 1 is node n.
    pub row: u32,
    /// What the number is used for.
    pub usage: Use,
    /// Which of the row's draws this is, for the children that a drafter draws; else 0.
    pub place: u32,
}

impl Site {
    /// A decision about node `node`.
    pub fn node(node: usize, usage: Use) -> Site {
        Site::row(node + 1, usage)
    }

    /// The draw of a row's child number `place`. It does not depend on how many children other
    /// rows have, so that a device draws for all rows of a level at the same time.
    pub fn child(row: usize, place: usize) -> Site {
        Site {
            place: place as u32,
            ..Site::row(row, Use::Draft)
        }
    }

    /// Use and place in one word of a counter.
    pub fn what(self) -> u32 {
        self.usage as u32 | self.place << 8
    }

    /// A draw from the law of row `row`.
    pub fn row(row: usize, usage: Use) -> Site {
        Site {
            row: row as u32,
            usage,
            place: 0,
        }
    }
}

/// Makes the random decisions of one step.
///
/// [`Philox`] in production; a proof puts an enumeration in its place.
pub trait Chooser<T: Real> {
    /// True with this probability (1 or more: always; 0 or NaN: never).
    fn accept(&mut self, site: Site, probability: T) -> bool;
    /// A token of what is left of a law; `None` when nothing is.
    fn draw(&mut self, site: Site, law: &Remaining<'_>) -> Option<u32>;
    /// A token of a residual; `None` when nothing is positive.
    fn draw_mass(&mut self, site: Site, mass: &Mass<T>) -> Option<u32>;
}

/// The production generator: Philox4x32-10 (Salmon et al., SC 2011) with
/// counter (sequence, step, row, use and place) and the seed as its key.
///
/// A number depends on its counter alone, so it does not matter which numbers
/// a step asks for, or in what order. Of the four words, the first two make the
/// 64 random bits of a decision (the first is the low half).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    /// The user's seed.
    pub seed: u64,
    /// Which of the run's sequences (prompts, samples) is decoded.
    pub sequence: u32,
    /// Decoding steps of the sequence so far.
    pub step: u32,
}

impl Philox {
    /// The generator of a sequence's first step.
    pub fn new(seed: u64, sequence: u32) -> Philox {
        Philox {
            seed,
            sequence,
            step: 0,
        }
    }

    /// The same sequence's generator at a step.
    pub fn at_step(self, step: u32) -> Philox {
        Philox { step, ..self }
    }

    /// The 64 random bits of a site.
    pub fn word(&self, site: Site) -> u64 {
        let counter = [self.sequence, self.step, site.row, site.what()];
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let [low, high, ..] = philox4x32(counter, key);
        u64::from(high) << 32 | u64::from(low)
    }
}

impl<T: Real> Chooser<T> for Philox {
    fn accept(&mut self, site: Site, probability: T) -> bool {
        probability.admits(self.word(site))
    }

    fn draw(&mut self, site: Site, law: &Remaining<'_>) -> Option<u32> {
        law.draw(self.word(site))
    }

    fn draw_mass(&mut self, site: Site, mass: &Mass<T>) -> Option<u32> {
        mass.draw(self.word(site))
    }
}

/// Philox4x32 with 10 rounds.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9e37_79b9);
            key[1] = key[1].wrapping_add(0xbb67_ae85);
        }
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers() {
        // Random123's kat_vectors, philox4x32 10.
        let ones = u32::MAX;
        for (counter, key, expected) in [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [ones; 4],
                [ones; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn every_part_of_the_counter_changes_the_number() {
        let site = Site::node(3, Use::Accept);
        let here = Philox::new(7, 1).at_step(5);
        let elsewhere = [
            Philox { seed: 8, ..here }.word(site),
            Philox {
                seed: 7 | 1 << 32,
                ..here
            }
            .word(site),
            Philox {
                sequence: 2,
                ..here
            }
            .word(site),
            here.at_step(6).word(site),
            here.word(Site::node(4, Use::Accept)),
            here.word(Site::row(4, Use::Residual)),
            here.word(Site::child(4, 0)),
            here.word(Site::child(4, 1)),
        ];
        for (i, word) in elsewhere.iter().enumerate() {
            assert_ne!(*word, here.word(site), "part {i}");
        }
        assert_eq!(
            here.word(site),
            here.word(Site {
                row: 4,
                usage: Use::Accept,
                place: 0
            })
        );
    }
}
