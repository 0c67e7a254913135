//! A profile, as the spec has it, read and checked.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall};
use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompOperator};
use sys::seccomp::{LOG, NEW_LISTENER, SPEC_ALLOW, WAIT_KILLABLE_RECV};

use super::action;
use super::arch::Arch;
use super::compare::{ARGUMENTS, Comparison};
use super::invalid;
use super::table::Syscall;
use crate::Failure;

/// A profile, checked.
#[derive(Debug)]
pub struct Profile<'a> {
    /// The architecture of the kernel that the filter is for.
    pub(super) native: Arch,
    /// The architectures whose calls are allowed at all; the native one always.
    pub(super) archs: Vec<Arch>,
    /// What becomes of a call that no rule is met for.
    pub(super) default: u32,
    /// The calls, in the profile's order, a call as often as it is named.
    pub(super) calls: Vec<Call<'a>>,
    /// What becomes of the calls that share it.
    pub(super) blocks: Vec<Block>,
    /// Whether calls that are newer than the profile are told to be not there.
    pub(super) hides_newer: bool,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: u32,
    /// Who is sent the listener's file, and with what words.
    pub(super) listener: Option<(PathBuf, Option<String>)>,
}

/// A call that the profile names.
#[derive(Debug)]
pub struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) syscall: Syscall,
    /// In [`Profile::blocks`].
    pub(super) block: usize,
}

/// What the profile says of some calls.
#[derive(Debug)]
pub struct Block {
    /// `None`: the same as by default, which makes no rule.
    pub(super) action: Option<u32>,
    /// Conditions, of which one has to be met.
    pub(super) when: Vec<Vec<Comparison>>,
}

impl<'a> Profile<'a> {
    /// Reads a profile for a kernel of some architecture. Names of calls that nobody here knows are passed over.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn new(spec: &'a LinuxSeccomp, native: Arch) -> Result<Self, Failure> {
        let default = action::value(spec.default_action(), spec.default_errno_ret())?;
        let mut archs = vec![native];
        for arch in spec.architectures().iter().flatten() {
            match Arch::from_spec(*arch, native) {
                Some(arch) if native.runs(arch) && !archs.contains(&arch) => archs.push(arch),
                _ => {}
            }
        }
        let (mut calls, mut blocks) = (Vec::new(), Vec::new());
        for rule in spec.syscalls().iter().flatten() {
            let block = blocks.len();
            blocks.push(Block::new(rule, default)?);
            for name in rule.names() {
                if name.is_empty() {
                    return Err(invalid("a rule", "a system call has no name"));
                }
                calls.extend(Syscall::find(name).map(|syscall| Call { name, syscall, block }));
            }
        }
        let notifies = notifies(spec)?;
        Ok(Self {
            native,
            archs,
            default,
            calls,
            blocks,
            hides_newer: !action::lets_through(default),
            flags: flags(spec, notifies)?,
            listener: notifies
                .then(|| (spec.listener_path().clone(), spec.listener_metadata().clone()))
                .and_then(|(path, words)| Some((path?, words))),
        })
    }

    /// The same without what is done about calls that are newer than the profile: they become what is the default.
    #[must_use]
    pub fn without_newer(self) -> Self {
        Self { hides_newer: false, ..self }
    }
}

impl Block {
    fn new(rule: &LinuxSyscall, default: u32) -> Result<Self, Failure> {
        let action = action::value(rule.action(), rule.errno_ret())?;
        let args = rule.args().as_deref().unwrap_or_default();
        let mut when = args.iter().map(comparison).collect::<Result<Vec<_>, _>>()?;
        when.sort_by_key(|one| one.argument);
        // Two conditions on one argument make as many rules as there are conditions: so all runtimes have read it since
        // Docker's first profiles.
        let twice = when.windows(2).any(|two| two[0].argument == two[1].argument);
        let when = if twice {
            args.iter().map(|arg| Ok(vec![comparison(arg)?])).collect::<Result<_, Failure>>()?
        } else {
            vec![when]
        };
        Ok(Self { action: (action != default).then_some(action), when })
    }
}

fn comparison(arg: &LinuxSeccompArg) -> Result<Comparison, Failure> {
    let argument = u8::try_from(arg.index()).ok().filter(|index| *index < ARGUMENTS);
    let argument =
        argument.ok_or_else(|| invalid(format!("argument {}", arg.index()), "there are six"))?;
    let operator = arg.op();
    let (mask, value) = match operator {
        LinuxSeccompOperator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or_default()),
        _ => (u64::MAX, arg.value()),
    };
    Ok(Comparison { argument, operator, mask, value: value & mask })
}

/// Whether a listener is asked. It cannot be asked about what brings it its file.
fn notifies(spec: &LinuxSeccomp) -> Result<bool, Failure> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    if spec.default_action() == notify {
        return Err(invalid(notify, "it cannot be the default"));
    }
    let rules = || spec.syscalls().iter().flatten().filter(|rule| rule.action() == notify);
    let own = |name: &String| name == "sendmsg" || name == "write";
    if let Some(name) = rules().flat_map(LinuxSyscall::names).find(|name| own(name)) {
        return Err(invalid(notify, format!("it cannot be used for {name}")));
    }
    let any = rules().next().is_some();
    let somebody = spec.listener_path().as_ref().is_some_and(|path| path.is_absolute());
    if any && !somebody {
        return Err(invalid(notify, "there is no absolute listenerPath"));
    }
    Ok(any)
}

fn flags(spec: &LinuxSeccomp, notifies: bool) -> Result<u32, Failure> {
    let listener = if notifies { NEW_LISTENER } else { 0 };
    let Some(named) = spec.flags() else { return Ok(listener | SPEC_ALLOW) };
    let flags = named.iter().fold(listener, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
                // Who loads the filter has one thread.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            }
    });
    if flags & WAIT_KILLABLE_RECV != 0 && !notifies {
        let flag = LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv;
        return Err(invalid(flag, "no rule notifies"));
    }
    Ok(flags)
}
