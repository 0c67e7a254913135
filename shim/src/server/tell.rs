//! When which event is told.

use prost_types::Any;
use proto::shim::events as wire;

use super::Server;
use super::event::Event;
use super::poll::Token;
use super::process::{INIT, Process};
use super::reap::timestamp;
use crate::Exit;
use crate::runtime::cgroup::Heard;
use crate::runtime::report::Cloned;

impl Server {
    /// Whether another daemon than Wherry's is who calls: it wants to hear, and it comes again.
    pub(super) fn is_foreign(&self) -> bool {
        self.publisher.is_some()
    }

    /// Tells the daemon, if it wants to hear: what, is asked only then.
    pub(super) fn tell(&mut self, event: impl FnOnce(&str, &mut Process) -> Event, key: u32) {
        let Some(publisher) = &mut self.publisher else { return };
        let Some(container) = &mut self.container else { return };
        let id = container.id.clone();
        let Some(process) = container.by_key(key) else { return };
        publisher.push(&event(&id, process));
        self.run_publisher();
    }

    /// Goes on with what is to be told.
    pub(super) fn run_publisher(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        if publisher.run()
            && let Some(socket) = publisher.socket()
            && let Err(error) = self.poll.add(socket, Token::Publisher)
        {
            crate::runtime::warn(format_args!("watch the daemon's socket: {error}"));
        }
    }

    pub(super) fn tell_created(&mut self) {
        let rootfs = self.container.as_mut().map(|all| std::mem::take(&mut all.rootfs));
        let bundle = std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned();
        let told = |id: &str, process: &mut Process| {
            let io = wire::TaskIo {
                stdin: process.paths.input.clone(),
                stdout: process.paths.output.clone(),
                stderr: process.paths.error.clone(),
                terminal: process.has_terminal,
            };
            Event::Create(wire::TaskCreate {
                container_id: id.to_owned(),
                bundle,
                rootfs: rootfs.unwrap_or_default(),
                io: Some(io),
                checkpoint: String::new(),
                pid: process.pid(),
            })
        };
        self.tell(told, INIT);
    }

    pub(super) fn tell_started(&mut self, key: u32) {
        let told = |id: &str, process: &mut Process| {
            let (container_id, pid) = (id.to_owned(), process.pid());
            if key == INIT {
                return Event::Start(wire::TaskStart { container_id, pid });
            }
            let exec_id = process.id.clone();
            Event::ExecStarted(wire::TaskExecStarted { container_id, exec_id, pid })
        };
        self.tell(told, key);
    }

    /// Has the kernel say when the container is out of memory, if there is somebody to tell.
    pub(super) fn listen_for_oom(&mut self, made: &Cloned) {
        let Some(container) = self.container.as_mut().filter(|_| self.publisher.is_some()) else {
            return;
        };
        let added = match container.cgroups.listen_for_oom(made) {
            Ok(Some(notice)) if notice.is_urgent() => self.poll.add_urgent(notice, Token::Memory),
            Ok(Some(notice)) => self.poll.add(notice, Token::Memory),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            crate::runtime::warn(format_args!("listen for a lack of memory: {error}"));
        }
    }

    pub(super) fn hear_oom(&mut self) {
        let Some(container) = &mut self.container else { return };
        match container.cgroups.hear_oom() {
            Heard::Shortage => self.tell_oom(),
            Heard::End(notice) => self.poll.remove(&notice),
            Heard::Nothing => {}
        }
    }

    fn tell_oom(&mut self) {
        if let Some(container) = &mut self.container {
            container.oom_told = true;
        }
        let told =
            |id: &str, _: &mut Process| Event::Oom(wire::TaskOom { container_id: id.to_owned() });
        self.tell(told, INIT);
    }

    /// A process has ended; the kernel's kills are told before.
    pub(super) fn tell_exit(&mut self, key: u32, exit: Exit) {
        if exit.oom_killed && self.container.as_ref().is_some_and(|all| !all.oom_told) {
            self.tell_oom();
        }
        let told = |id: &str, process: &mut Process| {
            let name = if key == INIT { id } else { process.id.as_str() };
            Event::Exit(wire::TaskExit {
                container_id: id.to_owned(),
                id: name.to_owned(),
                pid: process.pid(),
                exit_status: exit.code.unsigned_abs(),
                exited_at: Some(timestamp(exit.at)),
            })
        };
        self.tell(told, key);
    }

    pub(super) fn tell_deleted(&mut self, exit: Exit) {
        let told = |id: &str, process: &mut Process| {
            Event::Delete(wire::TaskDelete {
                container_id: id.to_owned(),
                pid: process.pid(),
                exit_status: exit.code.unsigned_abs(),
                exited_at: Some(timestamp(exit.at)),
                id: id.to_owned(),
            })
        };
        self.tell(told, INIT);
    }
}

/// What a process of the list is, beyond its number: which exec.
pub(super) fn details(process: &Process) -> Option<Any> {
    use prost::Message;
    let details = proto::shim::runc::ProcessDetails { exec_id: process.id.clone() };
    (!process.id.is_empty()).then(|| Any {
        type_url: crate::type_name::PROCESS_DETAILS.to_owned(),
        value: details.encode_to_vec(),
    })
}
