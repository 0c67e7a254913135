//! ExecSync with a shim that knows nothing but containerd's Task API: two FIFOs in the bundle, and four calls.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;
use proto::cri;
use rustix::fs::{CWD, FileType, Mode};
use shim::ExecOptions;
use std::time::Duration;
use tokio::net::unix::pipe;

use super::Exec;
use crate::error::Error;

/// A FIFO in the bundle, removed with the value.
struct Fifo {
    path: PathBuf,
}

impl Drop for Fifo {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

impl Fifo {
    /// Makes the FIFO and opens its reading end, so that the writer never waits for a reader.
    fn make(path: PathBuf) -> std::io::Result<(Self, pipe::Receiver)> {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0)?;
        let fifo = Self { path };
        let end = pipe::OpenOptions::new().open_receiver(&fifo.path)?;
        Ok((fifo, end))
    }
}

impl Exec<'_> {
    /// Registers, starts, waits and forgets.
    pub(super) async fn run_as_task(
        &self,
        bundle: &Path,
        process: Process,
        patience: Duration,
    ) -> Result<cri::ExecSyncResponse, Error> {
        let io = |source| Error::Io { operation: self.operation.clone(), source };
        let fifo = |stream: &str| Fifo::make(bundle.join(format!("{}.{stream}", &self.id[..16])));
        let ((stdout, out), (stderr, err)) = (fifo("out").map_err(io)?, fifo("err").map_err(io)?);
        let options = ExecOptions {
            exec_id: self.id.clone(),
            process,
            stdin: None,
            stdout: Some(stdout.path.clone()),
            stderr: Some(stderr.path.clone()),
        };
        let failed = |source| Error::Shim { operation: self.operation.clone(), source };
        self.shim.exec(options).await.map_err(failed)?;
        let started = self.shim.start_exec(&self.id).await.map_err(failed);
        let outcome = match started {
            Ok(_pid) => self.collect(self.shim.wait_exec(&self.id), [out, err], patience).await,
            Err(error) => Err(error),
        };
        if let Err(error) = self.shim.delete_exec(&self.id).await {
            tracing::debug!(exec = self.id, %error, "forget an exec");
        }
        outcome
    }
}
