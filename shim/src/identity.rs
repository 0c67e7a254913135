//! Which process a pid means: a pid alone may be another process's by tomorrow.

use std::fs;
use std::io;

/// When the process with this pid started, in clock ticks since boot (proc_pid_stat(5), field 22).
///
/// # Errors
/// There is no such process.
pub fn start_time(pid: u32) -> io::Result<u64> {
    // A process may call itself anything, also what is no text.
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    parse(&String::from_utf8_lossy(&stat))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed stat of a process"))
}

/// The command's name stands in parentheses and may hold anything, parentheses and blanks included.
fn parse(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The first field after the name is the third.
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_misleads_nobody() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse(stat), Some(4242));
    }

    #[test]
    fn this_process_has_a_start_time() {
        assert!(start_time(std::process::id()).unwrap() > 0);
    }
}
