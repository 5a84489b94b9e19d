//! What workers print: into a log file of bounded size, and line by line to the driver.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// A log file is put aside at this size, and one older one is kept.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// A line that is longer is passed on in pieces.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

/// What one read takes.
const READ_BYTES: usize = 64 * 1024;

/// A file that is put aside when it has grown too large.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    size_max: u64,
}

impl Log {
    /// The file is made at the first write.
    pub(crate) fn new(path: PathBuf) -> Log {
        Log { path, file: None, size: 0, size_max: LOG_BYTES_MAX }
    }

    /// Append; a log that cannot be written is given up silently, the program goes on.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.size + bytes.len() as u64 > self.size_max {
            self.file = None;
            self.size = 0;
            let _ = fs::rename(&self.path, older(&self.path));
        }
        if self.file.is_none() {
            self.file = File::options().create(true).append(true).open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(bytes);
            self.size += bytes.len() as u64;
        }
    }
}

/// Where a log is put aside.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// One output stream of a worker.
#[derive(Debug)]
pub(crate) struct Stream {
    log: Log,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Lines that were not passed on because the driver was too slow.
    dropped: u64,
}

impl Stream {
    /// A stream that is kept in `log`.
    pub(crate) fn new(log: PathBuf) -> Stream {
        Stream { log: Log::new(log), partial: Vec::new(), dropped: 0 }
    }

    /// Read once without waiting; whole lines are appended to `lines`. `Ok(0)` is the end.
    pub(crate) fn read(
        &mut self,
        pipe: impl AsFd,
        buffer: &mut Vec<u8>,
        lines: &mut Vec<String>,
    ) -> io::Result<usize> {
        buffer.clear();
        buffer.reserve(READ_BYTES);
        let count = rustix::io::read(pipe, rustix::buffer::spare_capacity(buffer))?;
        self.log.append(buffer);
        self.split(buffer, lines);
        Ok(count)
    }

    /// What is left of a last line without an end.
    pub(crate) fn finish(&mut self, lines: &mut Vec<String>) {
        if !self.partial.is_empty() {
            lines.push(text(&std::mem::take(&mut self.partial)));
        }
    }

    /// The driver is too slow for these lines: they are in the log only.
    pub(crate) fn drop_lines(&mut self, lines: &mut Vec<String>) {
        self.dropped += lines.len() as u64;
        lines.clear();
    }

    /// A notice about dropped lines, to be passed on before the next ones.
    pub(crate) fn notice(&mut self) -> Option<String> {
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then(|| format!("[{dropped} lines left out; they are in {}]", self.log.path.display()))
    }

    pub(super) fn split(&mut self, bytes: &[u8], lines: &mut Vec<String>) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = part.strip_suffix(b"\n");
            self.partial.extend_from_slice(ended.unwrap_or(part));
            if ended.is_some() && self.partial.last() == Some(&b'\r') {
                self.partial.pop();
            }
            self.pass_on_pieces(lines);
            if ended.is_some() {
                lines.push(text(&self.partial));
                self.partial.clear();
            }
        }
    }

    /// Leave of the line no more than one piece.
    fn pass_on_pieces(&mut self, lines: &mut Vec<String>) {
        while self.partial.len() > LINE_BYTES_MAX {
            // Not in the middle of a character.
            let cut = (LINE_BYTES_MAX - 3..=LINE_BYTES_MAX)
                .rev()
                .find(|at| self.partial[*at] & 0xc0 != 0x80)
                .unwrap_or(LINE_BYTES_MAX);
            let tail = self.partial.split_off(cut);
            lines.push(text(&self.partial));
            self.partial = tail;
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing::TemporaryDirectory;

    fn feed(stream: &mut Stream, parts: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        for part in parts {
            stream.log.append(part);
            stream.split(part, &mut lines);
        }
        lines
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let temp = TemporaryDirectory::new();
        let path = temp.path().join("worker.out");
        let mut stream = Stream::new(path.clone());
        let lines = feed(&mut stream, &[b"one\ntw", b"", b"o\r\n\nthr\xff", b"ee\nend"]);
        assert_eq!(lines, ["one", "two", "", "thr\u{fffd}ee"]);
        let mut rest = Vec::new();
        stream.finish(&mut rest);
        stream.finish(&mut rest);
        assert_eq!(rest, ["end"]);
        assert_eq!(fs::read(path).expect("the log"), b"one\ntwo\r\n\nthr\xffee\nend");
    }

    /// Memory stays bounded when a line never ends, and characters stay whole.
    #[test]
    fn an_endless_line_comes_in_pieces() {
        let temp = TemporaryDirectory::new();
        let mut stream = Stream::new(temp.path().join("worker.out"));
        let endless = "€".repeat(LINE_BYTES_MAX);
        let mut lines = feed(&mut stream, &[endless.as_bytes()]);
        assert!(stream.partial.len() <= LINE_BYTES_MAX);
        stream.finish(&mut lines);
        // The end of a line makes no difference.
        lines.extend(feed(&mut stream, &[endless.as_bytes(), b"\n"]));
        lines.extend(feed(&mut stream, &[format!("{endless}\n").as_bytes()]));
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX));
        assert_eq!(lines.concat(), endless.repeat(3));
    }

    #[test]
    fn a_log_has_a_bound() {
        let temp = TemporaryDirectory::new();
        let path = temp.path().join("worker.out");
        let mut log = Log::new(path.clone());
        log.size_max = 10;
        for text in ["12345", "67890", "abcde", "fghij", "k"] {
            log.append(text.as_bytes());
        }
        assert_eq!(fs::read(&path).expect("the log"), b"k");
        assert_eq!(fs::read(older(&path)).expect("the older one"), b"abcdefghij");
        assert_eq!(fs::read_dir(temp.path()).expect("a directory").count(), 2);
    }

    #[test]
    fn what_a_slow_driver_misses_is_counted() {
        let mut stream = Stream::new(PathBuf::from("/logs/worker.out"));
        assert_eq!(stream.notice(), None);
        stream.drop_lines(&mut vec![String::new(); 3]);
        stream.drop_lines(&mut vec![String::new(); 2]);
        let notice = stream.notice().expect("lines were dropped");
        assert_eq!(notice, "[5 lines left out; they are in /logs/worker.out]");
        assert_eq!(stream.notice(), None);
    }
}
