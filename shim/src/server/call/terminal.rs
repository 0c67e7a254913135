//! `ResizePty` and `CloseIO`: the caller's side of a process's standard files.

use crate::Failure;
use proto::shim::task::v2::{CloseIoRequest, ResizePtyRequest};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{Outcome, Server, done};
use crate::server::process::INIT;

impl Server {
    pub(super) fn resize_pty(&mut self, request: &ResizePtyRequest) -> Outcome {
        let process = self.container(&request.id)?.by_id(&request.exec_id)?;
        let Some(terminal) = &process.files.terminal else {
            return Err(process.refuse("resize terminal of", "it has none"));
        };
        let characters = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let size = Winsize {
            ws_row: characters(request.height),
            ws_col: characters(request.width),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(terminal, size).map_err(|e| Failure::os("resize", "terminal", e))?;
        done()
    }

    pub(super) fn close_io(&mut self, request: &CloseIoRequest) -> Outcome {
        let process = self.container(&request.id)?.by_id(&request.exec_id)?;
        if request.stdin {
            process.files.close_input();
            if process.key == INIT {
                self.close_client_inputs();
            }
        }
        done()
    }
}
