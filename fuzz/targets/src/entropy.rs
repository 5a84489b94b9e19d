//! The fuzzer's bytes as a source of choices.

/// Bytes that run out: from then on every choice is the first one, so whatever draws ends.
#[derive(Debug)]
pub struct Entropy<'b> {
    bytes: &'b [u8],
}

impl<'b> Entropy<'b> {
    /// Choices from these bytes.
    pub fn new(bytes: &'b [u8]) -> Entropy<'b> {
        Entropy { bytes }
    }

    /// Whether no byte is left.
    pub fn is_spent(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte, or 0.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *first
    }

    /// True this often in 256.
    pub fn chance(&mut self, of_256: u8) -> bool {
        !self.is_spent() && self.byte() < of_256
    }

    /// An index below `count`, which is not 0 and rarely above 256.
    pub fn index(&mut self, count: usize) -> usize {
        let wide = if count > 256 { usize::from(self.byte()) << 8 } else { 0 };
        (wide | usize::from(self.byte())) % count
    }

    /// One of a list.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.index(list.len())]
    }

    /// So many bytes, or what is left of them.
    pub fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'b [u8] {
        core::mem::take(&mut self.bytes)
    }

    /// An integer: small ones and the ends of ranges are as likely as all others together.
    pub fn integer(&mut self) -> u128 {
        let ends =
            [u128::MAX, u128::MAX - 1, 1 << 63, (1 << 63) - 1, 1 << 62, 1 << 32, 1 << 31, 10_000, 4_096, 64];
        match self.byte() {
            choice @ 0..160 => u128::from(choice % 8),
            160..192 => u128::from(self.byte()),
            192..232 => self.pick(&ends),
            _ => {
                let mut value = [0; 16];
                let drawn = self.take(8);
                value[..drawn.len()].copy_from_slice(drawn);
                u128::from_le_bytes(value)
            }
        }
    }
}
