//! Why one request failed, and whether another try makes sense.

use std::time::Duration;

use hyper::StatusCode;

use super::{Patience, is_transient};
use crate::ImageError;

/// Tries after the first one.
const MAX_RETRIES: u32 = 3;
/// A `Retry-After` beyond this is not waited for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// One request's end.
#[derive(Debug)]
pub(super) enum Failure {
    /// An answer other than success.
    Status { status: StatusCode, retry_after: Option<Duration>, detail: String },
    /// No connection.
    Connect { why: String },
    /// The connection broke or brought nothing for too long.
    Broken { why: String },
    /// The other side wants credentials that we do not have.
    Unauthorized { why: String },
    /// Content that cannot be what was asked for. Trying again brings the same.
    Wrong { why: String },
    /// An answer that leads nowhere, or where we do not go. Trying again brings the same.
    Refused { why: String },
}

impl Failure {
    /// How long to wait before try number `tries + 2`; `None` if it makes no sense.
    pub(super) fn pause(&self, tries: u32, patience: Patience) -> Option<Duration> {
        let backoff = patience.retry_delay.saturating_mul(1 << tries.min(8));
        match self {
            Self::Status { status, retry_after, .. }
                if tries < MAX_RETRIES && is_transient(*status) =>
            {
                match retry_after {
                    Some(wanted) => (*wanted <= MAX_RETRY_AFTER).then(|| backoff.max(*wanted)),
                    None => Some(backoff),
                }
            }
            Self::Broken { .. } if tries < MAX_RETRIES => Some(backoff),
            // A refused connection is an answer: one more try covers a restart, more would only hold up the mirrors.
            Self::Connect { .. } if tries < 1 => Some(backoff),
            _ => None,
        }
    }

    /// The error of whoever asked for `object`.
    pub(super) fn into_error(self, object: &str, host: &str) -> ImageError {
        let (object, host) = (object.to_owned(), host.to_owned());
        match self {
            Self::Status { status: StatusCode::NOT_FOUND, .. } => {
                ImageError::NotFound { object, host }
            }
            Self::Status { status, detail, .. } => {
                let why = if detail.is_empty() {
                    status.to_string()
                } else {
                    format!("{status}: {detail}")
                };
                match status {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                        ImageError::Unauthorized { object, host, why }
                    }
                    _ => ImageError::Unavailable { object, host, why },
                }
            }
            Self::Unauthorized { why } => ImageError::Unauthorized { object, host, why },
            Self::Connect { why } | Self::Broken { why } | Self::Refused { why } => {
                ImageError::Unavailable { object, host, why }
            }
            Self::Wrong { why } => ImageError::corrupt(format!("{object} from {host}"), why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { no_progress: Duration::from_secs(9), retry_delay: Duration::from_millis(100) };

    fn status(code: u16, retry_after: Option<u64>) -> Failure {
        let status = StatusCode::from_u16(code).unwrap();
        let retry_after = retry_after.map(Duration::from_secs);
        Failure::Status { status, retry_after, detail: String::new() }
    }

    #[test]
    fn pauses_double_and_end() {
        let pauses: Vec<_> = (0..5).map(|n| status(503, None).pause(n, PATIENCE)).collect();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(pauses, [ms(100), ms(200), ms(400), None, None]);
    }

    #[test]
    fn a_wanted_pause_is_kept_unless_it_is_too_long() {
        assert_eq!(status(429, Some(2)).pause(0, PATIENCE), Some(Duration::from_secs(2)));
        assert_eq!(status(429, Some(3600)).pause(0, PATIENCE), None);
    }

    #[test]
    fn answers_that_will_not_change_are_not_asked_for_again() {
        for code in [400, 401, 403, 404, 501] {
            assert_eq!(status(code, None).pause(0, PATIENCE), None, "{code}");
        }
        assert_eq!(Failure::Refused { why: String::new() }.pause(0, PATIENCE), None);
    }
}
