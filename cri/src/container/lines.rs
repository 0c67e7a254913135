//! The FIFOs between a shim and the daemon that carry a client's streams.
//!
//! They are in a folder of the bundle, named as the shim knows the exec or the client. Whoever comes to an orderly end
//! removes it; what a daemon leaves that was killed tells the next one what to end.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::streaming::{Buffer, Outlet};

/// How long output may still come when the command has ended but somebody holds its streams.
const QUIET: Duration = Duration::from_millis(500);
/// One read.
const CHUNK: usize = 64 << 10;
/// What a FIFO holds: a reader and a writer on two processors meet less often.
const FIFO: usize = 256 << 10;

const STDIN: &str = "stdin";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";
const TERMINAL: &str = "terminal";

/// Which FIFOs there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Standard error; a terminal has none.
    pub stderr: bool,
    /// The output is a terminal's.
    pub terminal: bool,
}

/// FIFOs in their folder; the output's are open for reading.
#[derive(Debug)]
pub struct Lines {
    folder: PathBuf,
    /// Where the shim finds the input.
    pub stdin: Option<PathBuf>,
    /// The output.
    pub stdout: Option<Line>,
    /// Standard error.
    pub stderr: Option<Line>,
    /// The output is a terminal's.
    pub terminal: bool,
}

/// One FIFO of the output.
#[derive(Debug)]
pub struct Line {
    /// Where the shim finds it.
    pub path: PathBuf,
    /// The reading end.
    pub end: pipe::Receiver,
}

impl Line {
    fn open(path: PathBuf) -> io::Result<Self> {
        let end = pipe::OpenOptions::new().open_receiver(&path)?;
        Ok(Self { path, end })
    }

    fn make(path: PathBuf) -> io::Result<Self> {
        make_fifo(&path)?;
        let line = Self::open(path)?;
        enlarge(&line.end);
        Ok(line)
    }
}

impl Lines {
    /// Makes them in a folder that is not there yet.
    ///
    /// # Errors
    /// The file system refuses; nothing is left then.
    pub fn make(folder: &Path, wanted: Wanted) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let made = Self::fill(folder, wanted);
        if made.is_err() {
            drop(std::fs::remove_dir_all(folder));
        }
        made
    }

    fn fill(folder: &Path, wanted: Wanted) -> io::Result<Self> {
        let stdin = wanted.stdin.then(|| folder.join(STDIN));
        if let Some(path) = &stdin {
            make_fifo(path)?;
        }
        let output = folder.join(if wanted.terminal { TERMINAL } else { STDOUT });
        let stdout = wanted.stdout.then(|| Line::make(output)).transpose()?;
        let error = wanted.stderr && !wanted.terminal;
        let stderr = error.then(|| Line::make(folder.join(STDERR))).transpose()?;
        Ok(Self { folder: folder.to_owned(), stdin, stdout, stderr, terminal: wanted.terminal })
    }

    /// Opens what another daemon has made.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn found(folder: &Path) -> io::Result<Self> {
        let there = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
        let terminal = there(TERMINAL);
        Ok(Self {
            folder: folder.to_owned(),
            stdin: there(STDIN),
            terminal: terminal.is_some(),
            stdout: terminal.or_else(|| there(STDOUT)).map(Line::open).transpose()?,
            stderr: there(STDERR).map(Line::open).transpose()?,
        })
    }

    /// Opens the input for writing; nothing when nobody reads it.
    #[must_use]
    pub fn open_input(&self) -> Option<pipe::Sender> {
        let end = pipe::OpenOptions::new().open_sender(self.stdin.as_ref()?).ok()?;
        enlarge(&end);
        Some(end)
    }

    /// Removes the folder.
    pub fn remove(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::debug!(folder = %self.folder.display(), %error, "remove FIFOs");
        }
    }
}

/// Makes a FIFO as large as [`FIFO`]. A smaller one is only slower: an administrator may have limited it.
fn enlarge(end: impl AsFd) {
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(end, FIFO) {
        tracing::debug!(%error, "make a FIFO larger");
    }
}

fn make_fifo(path: &Path) -> io::Result<()> {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    Ok(())
}

/// Moves output to a client until nobody writes any more, or, once the command has ended, until it is quiet. When
/// the client is gone, or there is none, the output is dropped: a command is not stopped by that.
pub async fn pump(line: Option<Line>, mut outlet: Option<Outlet>, ended: watch::Receiver<bool>) {
    let Some(mut line) = line else { return };
    let mut buffer = Buffer::new(CHUNK);
    loop {
        let read = tokio::select! {
            biased;
            read = line.end.read(buffer.room()) => read,
            () = quiet(ended.clone()) => Ok(0),
        };
        let count = read.unwrap_or(0);
        if count == 0 {
            return;
        }
        let Some(client) = &outlet else { continue };
        if client.send(&mut buffer, count).await.is_err() {
            outlet = None;
        }
    }
}

/// Comes when the command has ended, and a moment more.
async fn quiet(mut ended: watch::Receiver<bool>) {
    if ended.wait_for(|ended| *ended).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(QUIET).await;
}

/// What earlier daemons have left in a folder of such folders.
#[must_use]
pub fn left_in(parent: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let name =
        |entry: std::fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    entries.flatten().filter_map(name).collect()
}
