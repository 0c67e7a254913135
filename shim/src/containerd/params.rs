//! What containerd says on standard input when it starts a shim, and in which form it wants its answer. Three
//! generations of it:
//!
//! | containerd | says | wants |
//! |---|---|---|
//! | up to 1.7 | flags; options of the runtime as an `Any` | the address |
//! | 2.0 (`MAX_SHIM_VERSION` is 3 or more) | the same | JSON: version, address, protocol |
//! | later | `BootstrapParams`, as a message or as JSON | `BootstrapResult`, as it was asked |
//!
//! An `Any` can be read as parameters, too: they are, when they name the same container as the flags, or when there
//! are no such flags.

use prost::Message;
use prost_types::Any;
use proto::shim::bootstrap::{BootstrapParams, BootstrapResult};
use proto::shim::runc::Options;
use serde::{Deserialize, Serialize};

use super::flags::Flags;
use crate::{Failure, FailureKind, type_name};

/// The Task service's version that is answered with at most.
const VERSION: i32 = 3;
const PROTOCOL: &str = "ttrpc";

/// What a shim is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// The flags, with what the parameters say in their place.
    pub flags: Flags,
    /// The runtime's.
    pub options: Options,
    /// Where sockets are made.
    pub socket_dir: Option<String>,
    form: Form,
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Address,
    Envelope,
    Json,
    Message,
}

/// `BootstrapParams` as JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JsonParams {
    #[serde(alias = "instanceId", alias = "instanceID")]
    instance_id: String,
    namespace: String,
    #[serde(alias = "containerdTtrpcAddress")]
    containerd_ttrpc_address: String,
    #[serde(alias = "containerdGrpcAddress")]
    containerd_grpc_address: String,
    #[serde(alias = "containerdBinary")]
    containerd_binary: String,
    #[serde(alias = "socketDir")]
    socket_dir: Option<String>,
}

#[derive(Debug, Serialize)]
struct JsonResult<'a> {
    version: i32,
    address: &'a str,
    protocol: &'a str,
}

impl Params {
    /// Reads what was said.
    ///
    /// # Errors
    /// `InvalidArgument`: there is no name in it, or it is no JSON.
    pub fn read(flags: &Flags, input: &[u8]) -> Result<Self, Failure> {
        let mut params = Self {
            flags: flags.clone(),
            options: Options::default(),
            socket_dir: None,
            form: if max_version() >= VERSION { Form::Envelope } else { Form::Address },
        };
        if input.first() == Some(&b'{') {
            let said: JsonParams = serde_json::from_slice(input)
                .map_err(|error| invalid("bootstrap parameters", error.to_string()))?;
            params.form = Form::Json;
            params.socket_dir = said.socket_dir.clone();
            params.take(BootstrapParams {
                instance_id: said.instance_id,
                namespace: said.namespace,
                containerd_ttrpc_address: said.containerd_ttrpc_address,
                containerd_grpc_address: said.containerd_grpc_address,
                containerd_binary: said.containerd_binary,
                ..BootstrapParams::default()
            });
        } else if let Some(said) = bootstrap(flags, input) {
            params.form = Form::Message;
            params.socket_dir = said.socket_dir.clone();
            let extensions = said.extensions.iter().filter_map(|each| each.value.as_ref());
            params.options = extensions.filter_map(options).next().unwrap_or_default();
            params.take(said);
        } else if let Ok(any) = Any::decode(input) {
            params.options = options(&any).unwrap_or_default();
        }
        if params.flags.id.is_empty() {
            return Err(invalid("bootstrap parameters", "the container has no name".to_owned()));
        }
        Ok(params)
    }

    /// The answer, in the form that was asked for.
    ///
    /// # Errors
    /// The address cannot be written as JSON.
    pub fn answer(&self, address: &str) -> Result<Vec<u8>, Failure> {
        match self.form {
            Form::Address => Ok(address.as_bytes().to_owned()),
            Form::Envelope | Form::Json => {
                let result = JsonResult { version: VERSION, address, protocol: PROTOCOL };
                serde_json::to_vec(&result).map_err(|error| invalid(address, error.to_string()))
            }
            Form::Message => Ok(BootstrapResult {
                version: VERSION,
                address: address.to_owned(),
                protocol: PROTOCOL.to_owned(),
                ..BootstrapResult::default()
            }
            .encode_to_vec()),
        }
    }

    fn take(&mut self, said: BootstrapParams) {
        let flags = &mut self.flags;
        let set = |place: &mut String, value: String| {
            if !value.is_empty() {
                *place = value;
            }
        };
        set(&mut flags.id, said.instance_id);
        set(&mut flags.namespace, said.namespace);
        set(&mut flags.address, said.containerd_grpc_address);
        if !said.containerd_ttrpc_address.is_empty() {
            flags.ttrpc_address = Some(said.containerd_ttrpc_address);
        }
        if !said.containerd_binary.is_empty() {
            flags.publish_binary = Some(said.containerd_binary.into());
        }
    }
}

fn bootstrap(flags: &Flags, input: &[u8]) -> Option<BootstrapParams> {
    let said = BootstrapParams::decode(input).ok().filter(|_| !input.is_empty())?;
    let same = |flag: &str, said: &str| flag.is_empty() || flag == said;
    let meant = same(&flags.id, &said.instance_id) && same(&flags.namespace, &said.namespace);
    (meant && !said.instance_id.contains('/')).then_some(said)
}

fn options(any: &Any) -> Option<Options> {
    let known = any.type_url.ends_with(type_name::RUNC_OPTIONS);
    Options::decode(any.value.as_slice()).ok().filter(|_| known)
}

fn max_version() -> i32 {
    let said = std::env::var("MAX_SHIM_VERSION").ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(2)
}

fn invalid(object: &str, cause: String) -> Failure {
    Failure::new(FailureKind::InvalidArgument, "read", object, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::flags::Action;

    fn flags(id: &str) -> Flags {
        Flags {
            action: Action::Start,
            namespace: if id.is_empty() { String::new() } else { "ns".to_owned() },
            id: id.to_owned(),
            address: String::new(),
            ttrpc_address: None,
            publish_binary: None,
            bundle: None,
        }
    }

    #[test]
    fn options_of_the_runtime_are_no_parameters_though_they_could_be_read_as_such() {
        let options = Options { shim_cgroup: "/shims".to_owned(), ..Options::default() };
        let any =
            Any { type_url: type_name::RUNC_OPTIONS.to_owned(), value: options.encode_to_vec() };
        let params = Params::read(&flags("x"), &any.encode_to_vec()).unwrap();
        assert_eq!((params.options.shim_cgroup.as_str(), params.form), ("/shims", Form::Address));
        assert_eq!(params.answer("unix:///a").unwrap(), b"unix:///a");
    }

    #[test]
    fn parameters_are_answered_in_the_form_they_came_in() {
        let said = BootstrapParams {
            instance_id: "x".to_owned(),
            namespace: "ns".to_owned(),
            containerd_ttrpc_address: "/run/t".to_owned(),
            socket_dir: Some("/run/s".to_owned()),
            ..BootstrapParams::default()
        };
        for flags in [flags("x"), flags("")] {
            let params = Params::read(&flags, &said.encode_to_vec()).unwrap();
            assert_eq!((params.flags.id.as_str(), params.form), ("x", Form::Message));
            assert_eq!(params.flags.ttrpc_address.as_deref(), Some("/run/t"));
            assert_eq!(params.socket_dir.as_deref(), Some("/run/s"));
            let answer = BootstrapResult::decode(&*params.answer("unix:///a").unwrap()).unwrap();
            assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
        }
        let json = br#"{"instance_id":"x","namespace":"ns","containerd_grpc_address":"/run/g"}"#;
        let params = Params::read(&flags(""), json).unwrap();
        assert_eq!((params.flags.address.as_str(), params.form), ("/run/g", Form::Json));
        let answer = params.answer("unix:///a").unwrap();
        assert_eq!(answer, br#"{"version":3,"address":"unix:///a","protocol":"ttrpc"}"#);
    }

    #[test]
    fn a_container_without_a_name_and_broken_json_are_refused() {
        assert!(Params::read(&flags(""), b"").is_err());
        assert!(Params::read(&flags("x"), b"{").is_err());
    }
}
