//! Whether a client is there still, and whether anything moves: what both sides of its connection know together.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::remote::Gone;

/// The other end of a connection.
pub struct Peer {
    moved: AtomicU64,
    patience: Duration,
    gone: watch::Sender<bool>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

impl Peer {
    /// One that may take nothing for as long as `patience`.
    pub fn new(patience: Duration) -> Self {
        Self { moved: AtomicU64::new(0), patience, gone: watch::Sender::new(false) }
    }

    /// Becomes true when the connection has ended.
    pub fn gone(&self) -> watch::Receiver<bool> {
        self.gone.subscribe()
    }

    /// Ends the connection for everybody who waits to write.
    pub fn hang_up(&self) {
        self.gone.send_replace(true);
    }

    /// Counts something that was moved, in either direction.
    pub fn count(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for something as long as the client is there, and no longer than it may take nothing.
    ///
    /// # Errors
    /// [`Gone`]; a client that takes nothing is hung up on.
    pub async fn while_there<T>(&self, work: impl Future<Output = T>) -> Result<T, Gone> {
        let mut gone = self.gone.subscribe();
        tokio::select! {
            biased;
            done = timeout(self.patience, work) => done.map_err(|_| {
                self.hang_up();
                Gone
            }),
            _ = gone.wait_for(|gone| *gone) => Err(Gone),
        }
    }

    /// What the client sends next, for which it may take a while; `None` if nothing has moved for so long, in either
    /// direction.
    pub async fn hear<T>(&self, idle: Duration, read: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(read);
        loop {
            let moved = self.moved.load(Ordering::Relaxed);
            match timeout(idle, read.as_mut()).await {
                Ok(heard) => return Some(heard),
                Err(_) if self.moved.load(Ordering::Relaxed) == moved => return None,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_client_is_given_up_when_nothing_moves_in_either_direction() {
        let peer = Peer::new(SECOND);
        let slow = async {
            for _ in 0..2 {
                tokio::time::sleep(SECOND * 6 / 10).await;
                peer.count();
            }
        };
        assert_eq!(peer.hear(SECOND, slow).await, Some(()), "it was written to meanwhile");
        let silence = peer.hear(SECOND / 100, std::future::pending::<()>());
        assert_eq!(silence.await, None);
        assert!(!*peer.gone().borrow());
    }

    #[tokio::test]
    async fn who_takes_nothing_is_hung_up_on_and_nobody_waits_for_who_is_gone() {
        let peer = Peer::new(SECOND / 100);
        assert!(peer.while_there(async {}).await.is_ok());
        assert!(!*peer.gone().borrow());
        assert!(peer.while_there(std::future::pending::<()>()).await.is_err());
        assert!(*peer.gone().borrow());
        let patient = Peer::new(SECOND * 3600);
        patient.hang_up();
        assert!(patient.while_there(std::future::pending::<()>()).await.is_err());
    }
}
