//! Seeded randomness.

use shoal_core::Span;

/// A small, fast generator (xoshiro256**, Blackman and Vigna 2018), the same on every machine.
#[derive(Clone, Debug)]
pub struct Random([u64; 4]);

impl Random {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Random {
        let mut state = seed;
        Random(std::array::from_fn(|_| split_mix(&mut state)))
    }

    /// Another generator, independent of what this one yields afterwards.
    pub fn fork(&mut self) -> Random {
        Random::new(self.draw())
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        let state = &mut self.0;
        let result = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(limit)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// A small number more often than a big one: the number of bits is uniform.
    pub fn skewed(&mut self, limit: u64) -> u64 {
        let bits = u64::BITS - limit.leading_zeros();
        let most = 1u64.checked_shl(self.between(0, u64::from(bits)) as u32).unwrap_or(u64::MAX);
        self.below(most.min(limit).max(1))
    }

    /// True in `per_mille` of 1000 cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A span between two others.
    pub fn span(&mut self, low: Span, high: Span) -> Span {
        Span(self.between(low.0, high.0.max(low.0)))
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

/// The usual way to turn one word into a full state.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_agree_and_bounds_hold() {
        let (mut one, mut two) = (Random::new(7), Random::new(7));
        for _ in 0..1000 {
            assert_eq!(one.draw(), two.draw());
            assert!((3..=9).contains(&one.between(3, 9)));
            two.between(3, 9);
            assert!(one.skewed(1000) < 1000);
            two.skewed(1000);
        }
        assert_ne!(Random::new(1).draw(), Random::new(2).draw());
        assert!((0..1000).all(|_| !one.chance(0) && one.chance(1000)));
    }
}
