//! Which answers of a store are worth another try, when the next one comes, and what people can do about the others.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::options::{FIRST_PAUSE, LONGEST_PAUSE};

/// True for an answer that another try may change: the server's own failures, and its requests for patience.
///
/// What is not implemented will not be in a moment. The store library thinks the same of the requests that it makes
/// (`client/retry.rs` of `object_store` 0.14), but for that last one.
pub(super) fn may_pass(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// The tries of one request, within a budget of time.
#[derive(Debug)]
pub(super) struct Tries {
    deadline: Instant,
    pause: Duration,
}

impl Tries {
    pub(super) fn within(budget: Duration) -> Self {
        Self { deadline: Instant::now() + budget, pause: FIRST_PAUSE }
    }

    /// True when there is time for another one.
    pub(super) fn are_left(&self) -> bool {
        Instant::now() + self.pause < self.deadline
    }

    /// Waits for its moment.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }

    /// Each time twice as long, up to a limit, less a part drawn by chance, so that clients that failed together do not come
    /// back together.
    fn next_pause(&mut self) -> Duration {
        // The only chance that std has; it need not be good.
        let drawn = u32::try_from(RandomState::new().hash_one(self.pause) % 1000).unwrap_or(0);
        let pause = self.pause / 2 + self.pause / 2 * drawn / 1000;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// What a person can do about an error that a store has a code for.
pub(super) fn advice(said: &str) -> Option<&'static str> {
    const ADVICE: [(&str, &str); 7] = [
        (
            "RequestTimeTooSkewed",
            "This host's clock and the store's differ by more than the store takes, which is 15 minutes at AWS: set the clock, \
             and see that something keeps it (chrony, systemd-timesyncd). `barback check` tells by how much they differ.",
        ),
        ("ExpiredToken", "The temporary credentials have ended: see that whoever gives them renews them."),
        ("InvalidAccessKeyId", "The store does not know the access key: is it that of this store, and still in use?"),
        (
            "SignatureDoesNotMatch",
            "The secret does not belong to the access key, or something on the way changes requests.",
        ),
        ("StorageFull", "The store is full: give it room, or let `barback expire` make some."),
        ("QuotaExceeded", "The store's quota is used up: raise it, or let `barback expire` make room."),
        ("ServerFailedToAuthenticateRequest", "The account's key or the signature is wrong or has ended."),
    ];
    ADVICE.iter().find(|(code, _)| said.contains(code)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_s_failures_and_its_pleas_for_patience_may_pass_and_nothing_else() {
        let passing: Vec<u16> = (100..600)
            .filter(|status| may_pass(StatusCode::from_u16(*status).unwrap()))
            .filter(|status| !(505..600).contains(status))
            .collect();
        assert_eq!(passing, [408, 429, 500, 502, 503, 504]);
    }

    #[test]
    fn pauses_grow_to_their_limit_and_end_with_the_budget() {
        let mut tries = Tries::within(Duration::from_mins(1));
        let mut longest = FIRST_PAUSE;
        for _ in 0..12 {
            let pause = tries.next_pause();
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
            longest = (longest * 2).min(LONGEST_PAUSE);
        }
        assert_eq!(longest, LONGEST_PAUSE);
        assert!(tries.are_left());
        assert!(!Tries::within(FIRST_PAUSE / 2).are_left());
    }

    #[test]
    fn a_clock_that_is_off_is_explained() {
        let said = "the store answered 403 Forbidden: RequestTimeTooSkewed: The difference is too large.";
        assert!(advice(said).unwrap().contains("clock"));
        assert_eq!(advice("the store answered 403 Forbidden: AccessDenied: Access Denied."), None);
    }
}
