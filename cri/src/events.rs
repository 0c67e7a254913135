//! What happens to containers and sandboxes, told to every reader in the order in which it happens.
//!
//! Whoever changes what a list or a status says does it inside [`Events::in_order`]: the change, the look at the pod
//! that goes with the news, and the telling are one step then, and two readers never disagree on an order. The step
//! touches memory only.
//!
//! A reader has [`BACKLOG`] events of patience. One that falls further behind gets an error in the place of what it
//! missed, and its stream ends: a client that relies on events lists again then, where a gap would leave it wrong for
//! ever. Nobody is told what happened before it came.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::clock::Nanos;
use crate::container::{self, Container};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::sandbox::{self, Sandbox};

/// How many events a reader may be behind: as many as the kubelet keeps on its side.
const BACKLOG: usize = 1000;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is listed now.
    Created,
    /// It runs.
    Started,
    /// It does not run any more.
    Stopped,
    /// It is not listed any more.
    Deleted,
}

/// A pod with its containers at one moment.
#[derive(Clone, Debug)]
pub struct Moment {
    /// When.
    pub at: Nanos,
    /// The pod and its state; none when its record was damaged.
    pub sandbox: Option<(Arc<Sandbox>, sandbox::state::State)>,
    /// Its containers and their states.
    pub containers: Vec<(Arc<Container>, container::state::State)>,
}

/// One piece of news.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// To whom: a container's or a sandbox's id.
    pub subject: String,
    /// Its pod right after.
    pub moment: Moment,
}

/// Those who listen; none any more when the daemon is ending.
#[derive(Debug)]
pub struct Events {
    listeners: Mutex<Option<broadcast::Sender<Arc<Event>>>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { listeners: Mutex::new(Some(broadcast::Sender::new(BACKLOG))) }
    }
}

/// The right to change what lists say, and to tell of it.
#[derive(Debug)]
pub struct Turn<'a> {
    listeners: MutexGuard<'a, Option<broadcast::Sender<Arc<Event>>>>,
}

impl Events {
    /// Waits until nobody else changes anything. Take no other turn and wait for nothing while holding one.
    pub fn in_order(&self) -> Turn<'_> {
        Turn { listeners: self.listeners.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Listens from now on.
    ///
    /// # Errors
    /// `Unavailable` when the daemon is ending.
    pub fn listen(&self) -> Result<Reader, Error> {
        let turn = self.in_order();
        turn.listeners.as_ref().map(|all| Reader(all.subscribe())).ok_or_else(ending)
    }

    /// Ends all readers' streams, each after what it has been told already.
    pub fn close(&self) {
        self.in_order().listeners.take();
    }
}

impl Turn<'_> {
    /// Tells all readers of what was done in this turn. Costs nothing while there is none.
    pub fn tell(&self, kind: Kind, subject: &str, moment: impl FnOnce() -> Moment) {
        let Some(listeners) = self.listeners.as_ref().filter(|all| all.receiver_count() > 0) else {
            return;
        };
        let event = Event { kind, subject: subject.to_owned(), moment: moment() };
        // The last reader may have gone a moment ago.
        drop(listeners.send(Arc::new(event)));
    }
}

/// One who listens.
#[derive(Debug)]
pub struct Reader(broadcast::Receiver<Arc<Event>>);

impl Reader {
    /// The next event; after an error there is nothing more to come.
    ///
    /// # Errors
    /// `Overrun` when the reader fell too far behind, `Unavailable` when the daemon is ending.
    pub async fn next(&mut self) -> Result<Arc<Event>, Error> {
        use broadcast::error::RecvError;
        self.0.recv().await.map_err(|error| match error {
            RecvError::Lagged(lost) => Error::Overrun {
                operation: "tell what happens to containers".into(),
                reason: format!("the reader is too slow and has missed {lost} events; list again"),
            },
            RecvError::Closed => ending(),
        })
    }
}

fn ending() -> Error {
    Error::Unavailable {
        operation: "tell what happens to containers".into(),
        reason: "the daemon is ending".into(),
    }
}

impl Runtime {
    /// A pod with its containers as they are now; the same moment for all of them.
    pub(crate) fn moment(&self, sandbox: &Arc<Sandbox>) -> Moment {
        let _turn = self.events.in_order();
        self.moment_in_turn(Some(sandbox), sandbox.id())
    }

    fn moment_in_turn(&self, sandbox: Option<&Arc<Sandbox>>, id: &crate::SandboxId) -> Moment {
        let containers = self.containers_of(id).into_iter().map(|container| {
            let state = container.state.borrow().clone();
            (container, state)
        });
        Moment {
            at: Nanos::now(),
            sandbox: sandbox.map(|sandbox| (Arc::clone(sandbox), sandbox.state())),
            containers: containers.collect(),
        }
    }

    fn tell_of_container(&self, turn: &Turn<'_>, kind: Kind, container: &Container) {
        turn.tell(kind, container.id().as_str(), || {
            let sandbox = self.sandboxes.find(container.record.sandbox.as_str()).ok();
            self.moment_in_turn(sandbox.as_ref(), &container.record.sandbox)
        });
    }

    fn tell_of_sandbox(&self, turn: &Turn<'_>, kind: Kind, sandbox: &Arc<Sandbox>) {
        turn.tell(kind, sandbox.id().as_str(), || self.moment_in_turn(Some(sandbox), sandbox.id()));
    }

    /// Moves a container in its life; the answer is the change's own.
    pub(crate) fn move_container<T>(
        &self,
        container: &Container,
        change: impl FnOnce(&mut container::state::State) -> T,
    ) -> T {
        let turn = self.events.in_order();
        let before = container.state.borrow().to_wire();
        let mut answer = None;
        container.state.send_modify(|state| answer = Some(change(state)));
        let after = container.state.borrow().to_wire();
        if before != after {
            let kind =
                if container.state.borrow().is_exited() { Kind::Stopped } else { Kind::Started };
            self.tell_of_container(&turn, kind, container);
        }
        answer.expect("send_modify calls its closure once")
    }

    /// Makes a new container known as long as its pod takes it; the answer is whether it did.
    pub(crate) fn admit_container(&self, sandbox: &Sandbox, container: &Arc<Container>) -> bool {
        let turn = self.events.in_order();
        // Under the sandbox's lock, so that a stop either sees the container or has been seen.
        let welcome = sandbox.change(|state| {
            let ready = state.is_ready();
            if ready {
                self.containers.insert(container.id().as_str(), Arc::clone(container));
            }
            ready
        });
        if welcome {
            self.tell_of_container(&turn, Kind::Created, container);
        }
        welcome
    }

    /// Forgets a container of which nothing is left.
    pub(crate) fn forget_container(&self, container: &Container) {
        let turn = self.events.in_order();
        self.containers.remove(container.id().as_str());
        self.tell_of_container(&turn, Kind::Deleted, container);
    }

    /// Makes a new sandbox known, which runs from its first moment.
    pub(crate) fn admit_sandbox(&self, sandbox: &Arc<Sandbox>) {
        let turn = self.events.in_order();
        self.sandboxes.insert(sandbox.id().as_str(), Arc::clone(sandbox));
        self.tell_of_sandbox(&turn, Kind::Created, sandbox);
        self.tell_of_sandbox(&turn, Kind::Started, sandbox);
    }

    /// Everything of a sandbox has been given back.
    pub(crate) fn sandbox_stopped(&self, sandbox: &Arc<Sandbox>) {
        let turn = self.events.in_order();
        sandbox.change(sandbox::state::State::stopped);
        self.tell_of_sandbox(&turn, Kind::Stopped, sandbox);
    }

    /// Forgets a sandbox of which nothing is left.
    pub(crate) fn forget_sandbox(&self, sandbox: &Arc<Sandbox>) {
        let turn = self.events.in_order();
        self.sandboxes.remove(sandbox.id().as_str());
        self.tell_of_sandbox(&turn, Kind::Deleted, sandbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(events: &Events, subject: &str) {
        let moment = || Moment { at: Nanos::now(), sandbox: None, containers: Vec::new() };
        events.in_order().tell(Kind::Created, subject, moment);
    }

    #[tokio::test]
    async fn every_reader_hears_everything_in_order_from_when_it_came() {
        let events = Events::default();
        tell(&events, "before");
        let (mut one, mut two) = (events.listen().unwrap(), events.listen().unwrap());
        for subject in ["a", "b", "c"] {
            tell(&events, subject);
        }
        for reader in [&mut one, &mut two] {
            for subject in ["a", "b", "c"] {
                assert_eq!(reader.next().await.unwrap().subject, subject);
            }
        }
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_so_and_the_others_are_not_held_up() {
        let events = Events::default();
        let (mut slow, mut quick) = (events.listen().unwrap(), events.listen().unwrap());
        for number in 0..BACKLOG + 100 {
            tell(&events, &number.to_string());
            assert_eq!(quick.next().await.unwrap().subject, number.to_string());
        }
        assert!(matches!(slow.next().await, Err(Error::Overrun { .. })));
    }

    #[tokio::test]
    async fn at_the_end_readers_get_what_was_told_and_then_an_error() {
        let events = Events::default();
        let mut reader = events.listen().unwrap();
        tell(&events, "last");
        events.close();
        assert_eq!(reader.next().await.unwrap().subject, "last");
        assert!(matches!(reader.next().await, Err(Error::Unavailable { .. })));
        assert!(events.listen().is_err());
    }
}
