//! How a command went, in the words of each version of the protocol.

use serde_json::json;

/// The version of the remote command protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `channel.k8s.io`.
    V1,
    /// `v2.channel.k8s.io`.
    V2,
    /// `v3.channel.k8s.io`: a terminal has a size.
    V3,
    /// `v4.channel.k8s.io`: the error stream carries a Status.
    V4,
    /// `v5.channel.k8s.io`, in WebSockets: a channel can be closed.
    V5,
}

impl Version {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "channel.k8s.io",
            Self::V2 => "v2.channel.k8s.io",
            Self::V3 => "v3.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::V5 => "v5.channel.k8s.io",
        }
    }

    /// What the error stream ends with.
    #[must_use]
    pub fn verdict(self, outcome: &Result<i32, String>) -> String {
        if self >= Self::V4 {
            return status(outcome);
        }
        match outcome {
            Ok(0) => String::new(),
            Ok(code) => sentence(*code),
            Err(reason) => reason.clone(),
        }
    }
}

fn sentence(code: i32) -> String {
    format!("command terminated with non-zero exit code: {code}")
}

/// A Status of the Kubernetes API (meta/v1), as `kubectl` reads it.
fn status(outcome: &Result<i32, String>) -> String {
    let status = match outcome {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": sentence(*code),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(reason) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {reason}"),
            "reason": "InternalError",
            "details": { "causes": [{ "message": reason }] },
            "code": 500,
        }),
    };
    status.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_the_cause_of_a_failure() {
        let text = Version::V4.verdict(&Ok(42));
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "42");
    }

    #[test]
    fn old_versions_are_silent_on_success_and_say_a_sentence_otherwise() {
        assert_eq!(Version::V3.verdict(&Ok(0)), "");
        assert_eq!(Version::V1.verdict(&Err("no such file".into())), "no such file");
        assert!(Version::V2.verdict(&Ok(3)).ends_with(": 3"));
        assert!(Version::V5.verdict(&Ok(0)).contains("\"Success\""));
    }
}
