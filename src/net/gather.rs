//! Head and body of a request go out together.

use ureq::unversioned::transport::{Buffers, LazyBuffers};

/// Buffers that keep their output until the answer is awaited. ureq sends the head of a request and then its body: that
/// would be two TLS records (22 bytes each) in two packets (52 bytes of headers each) with an acknowledgement for each.
#[derive(Debug)]
pub(super) struct Gathered {
    buffers: LazyBuffers,
    kept: usize,
}

impl Gathered {
    /// Nothing is allocated before it is needed.
    pub(super) fn new(input_size: usize, output_size: usize) -> Self {
        Self { buffers: LazyBuffers::new(input_size, output_size), kept: 0 }
    }

    /// Keeps so much of what was written to [`output`](Buffers::output); whether there is room for more.
    pub(super) fn keep(&mut self, amount: usize) -> bool {
        self.kept = self.kept.saturating_add(amount);
        self.kept < self.buffers.output().len()
    }

    /// Whether anything is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.kept == 0
    }

    /// All that is kept; nothing is afterwards.
    pub(super) fn take(&mut self) -> &mut [u8] {
        let kept = std::mem::take(&mut self.kept);
        self.buffers.output().get_mut(..kept).unwrap_or_default()
    }
}

impl Buffers for Gathered {
    fn output(&mut self) -> &mut [u8] {
        self.buffers.output().get_mut(self.kept..).unwrap_or_default()
    }

    fn input(&self) -> &[u8] {
        self.buffers.input()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.buffers.input_append_buf()
    }

    fn input_appended(&mut self, amount: usize) {
        self.buffers.input_appended(amount);
    }

    fn input_consume(&mut self, amount: usize) {
        self.buffers.input_consume(amount);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        let (scratch, output) = self.buffers.tmp_and_output();
        (scratch, output.get_mut(self.kept..).unwrap_or_default())
    }

    fn can_use_input(&self) -> bool {
        self.buffers.can_use_input()
    }
}

#[cfg(test)]
mod tests {
    use super::Gathered;
    use ureq::unversioned::transport::Buffers as _;

    fn write(buffers: &mut Gathered, text: &[u8]) -> bool {
        buffers.output()[..text.len()].copy_from_slice(text);
        buffers.keep(text.len())
    }

    #[test]
    fn what_is_written_in_parts_is_taken_as_one_and_once() {
        let mut buffers = Gathered::new(16, 8);
        assert!(buffers.is_empty());
        assert!(write(&mut buffers, b"abc"));
        assert_eq!(buffers.tmp_and_output().1.len(), 5);
        assert!(write(&mut buffers, b"defg"));
        assert!(!buffers.is_empty());
        assert!(!write(&mut buffers, b"h"), "there is no room for more");
        assert!(buffers.output().is_empty());
        assert_eq!(buffers.take(), b"abcdefgh");
        assert!(buffers.is_empty() && buffers.take().is_empty());
        assert_eq!(buffers.output().len(), 8);
    }
}
