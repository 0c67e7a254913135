//! `ResizePty` and `CloseIO`: the caller's side of a process's standard files.

use crate::Failure;
use proto::shim::task::v2::{CloseIoRequest, ResizePtyRequest};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{Outcome, Server, done};
use crate::foreign::errand::Verb;
use crate::server::foreign::Then;
use crate::server::process::INIT;
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn resize_pty(&mut self, request: &ResizePtyRequest, caller: Caller) -> Outcome {
        if self.is_made_by_shim() {
            let (exec_id, width, height) = (request.exec_id.clone(), request.width, request.height);
            let resize = Verb::Resize { exec_id, width, height };
            return self.begin_errand(resize, Then::Answer(caller));
        }
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

    pub(super) fn close_io(&mut self, request: &CloseIoRequest, caller: Caller) -> Outcome {
        let process = self.container(&request.id)?.by_id(&request.exec_id)?;
        if request.stdin {
            process.files.close_input();
            if process.key == INIT {
                self.close_client_inputs();
            }
            if self.is_made_by_shim() {
                // The first process's input ends with this shim's end of the FIFO; an exec's is the caller's.
                let close = Verb::CloseInput(request.exec_id.clone());
                return match request.exec_id.as_str() {
                    "" => done(),
                    _ => self.begin_errand(close, Then::Answer(caller)),
                };
            }
        }
        done()
    }
}
