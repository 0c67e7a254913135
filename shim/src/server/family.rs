//! A process and all whom it has started, for as long as one can tell: children of children, and whoever is still in its
//! session or in a process group of theirs. A daemon that has left all of these is its own master.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How often it is looked for somebody new before those are killed who are known.
const ROUNDS: usize = 32;

/// Kills a process of ours and all its family, of those in `list`. They are stopped first: whoever loses its parent is
/// adopted, and nobody could tell any longer whose it was.
pub fn kill(root: u32, list: impl Fn() -> Vec<u32>) {
    let mut known: Vec<Member> = Vec::new();
    for _ in 0..ROUNDS {
        let all: Vec<Member> = list().into_iter().filter_map(Member::look).collect();
        let mut news = family(root, &all);
        news.retain(|member| !known.contains(member));
        if news.is_empty() {
            break;
        }
        for member in news {
            member.signal(Signal::STOP);
            known.push(member);
        }
    }
    for member in &known {
        member.signal(Signal::KILL);
    }
}

/// A process as procfs shows it.
#[derive(Debug, Clone, Copy)]
struct Member {
    pid: u32,
    parent: u32,
    group: u32,
    session: u32,
    /// With the pid it names the process for good.
    start_time: u64,
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.start_time) == (other.pid, other.start_time)
    }
}

impl Member {
    fn look(pid: u32) -> Option<Self> {
        Self::parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc_pid_stat(5): a name may have anything in it, and the last `)` ends it.
    fn parse(pid: u32, stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ').skip(1);
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        let start_time = rest.split(' ').nth(19)?.parse().ok()?;
        Some(Self { pid, parent, group, session, start_time })
    }

    /// By a handle that was taken before it was looked at again, so that nobody else can have got the number.
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(handle) = handle.filter(|_| Self::look(self.pid) == Some(*self)) {
            let _gone = pidfd_send_signal(&handle, signal);
        }
    }
}

/// Who of `all` belongs to `root`.
fn family(root: u32, all: &[Member]) -> Vec<Member> {
    let mut found: Vec<Member> = all.iter().filter(|member| member.pid == root).copied().collect();
    loop {
        let belongs = |one: &Member| {
            one.session == root
                || found.iter().any(|known| one.parent == known.pid || one.group == known.pid)
        };
        let new = |one: &&Member| !found.contains(one) && belongs(one);
        let news: Vec<Member> = all.iter().filter(new).copied().collect();
        if news.is_empty() {
            return found;
        }
        found.extend(news);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(pid: u32, parent: u32, group: u32, session: u32) -> Member {
        Member { pid, parent, group, session, start_time: 1 }
    }

    #[test]
    fn children_sessions_and_groups_belong_and_others_do_not() {
        let all = [
            member(1, 0, 1, 1),
            member(10, 0, 10, 10),
            member(11, 10, 10, 10),
            // In a group of its own, its parent has gone: still of the session.
            member(12, 1, 12, 10),
            // A session of its own, but its parent is there, and so on.
            member(13, 11, 13, 13),
            member(14, 13, 14, 14),
            // A daemon, and somebody of another exec.
            member(15, 1, 15, 15),
            member(20, 0, 20, 20),
        ];
        let mut pids: Vec<u32> = family(10, &all).iter().map(|member| member.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [10, 11, 12, 13, 14]);
    }

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a) b) S 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0";
        let read = Member::parse(7, stat).unwrap();
        assert_eq!((read.parent, read.group, read.session, read.start_time), (3, 4, 5, 99));
        assert_eq!(Member::look(std::process::id()).unwrap().pid, std::process::id());
    }
}
