//! Fewer requests at once where a store says that they are too many.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use http::StatusCode;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use tokio::sync::Notify;

use super::bounded;

/// With so many at once there is nothing left to hold back.
const NO_LIMIT: usize = 64;

/// So many good answers for each that may be on its way let one more through.
const GOOD_ANSWERS: usize = 8;

/// Makes clients that obey a store which asks for less.
///
/// A store that answers 503 or 429 halves the number of requests that may be on their way, once for all that were on their way
/// together; after some good answers one more may. Before the first such answer nothing is held back.
/// Requests are still repeated by whoever made them, with their own pauses.
#[derive(Debug, Default)]
pub(super) struct ThrottledConnector {
    inner: ReqwestConnector,
    gate: Arc<Gate>,
}

impl HttpConnector for ThrottledConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.inner.connect(options)?;
        Ok(HttpClient::new(Throttled { client, gate: Arc::clone(&self.gate) }))
    }
}

#[derive(Debug)]
struct Throttled {
    client: HttpClient,
    gate: Arc<Gate>,
}

#[async_trait]
impl HttpService for Throttled {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let turn = self.gate.enter().await;
        let is_object = bounded::asks_for_object(&request);
        let mut response = self.client.execute(request).await?;
        turn.answered(response.status());
        // The library repeats a request that is not implemented for as long as any other: it will not be in a moment.
        if response.status() == StatusCode::NOT_IMPLEMENTED {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        }
        if is_object && response.status().is_success() { Ok(response) } else { bounded::whole(response).await }
    }
}

/// Lets requests through.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    on_their_way: usize,
    /// None until the store complains.
    limit: Option<usize>,
    /// How often it was lowered.
    cuts: u64,
    /// Good answers since the limit last changed.
    good: usize,
}

/// A request on its way.
struct Turn<'a> {
    gate: &'a Gate,
    /// How often the limit had been lowered when it set out.
    cuts: u64,
}

impl Gate {
    async fn enter(&self) -> Turn<'_> {
        loop {
            // Before the look: what is freed between the two must not be missed.
            let freed = self.freed.notified();
            if let Some(turn) = self.try_enter() {
                return turn;
            }
            freed.await;
        }
    }

    fn try_enter(&self) -> Option<Turn<'_>> {
        let mut state = self.lock();
        if state.limit.is_some_and(|limit| state.on_their_way >= limit) {
            return None;
        }
        state.on_their_way += 1;
        Some(Turn { gate: self, cuts: state.cuts })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    fn answered(&self, status: StatusCode) {
        let mut state = self.gate.lock();
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            if self.cuts == state.cuts {
                let limit = (state.on_their_way / 2).max(1);
                tracing::info!("the store answered {status}: at most {limit} request(s) at once from now on");
                (state.limit, state.good) = (Some(limit), 0);
                state.cuts += 1;
            }
        } else if let Some(limit) = state.limit {
            state.good += 1;
            if state.good >= limit * GOOD_ANSWERS {
                (state.limit, state.good) = (Some(limit + 1).filter(|limit| *limit < NO_LIMIT), 0);
                drop(state);
                self.gate.freed.notify_one();
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.gate.lock().on_their_way -= 1;
        self.gate.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

    fn enter(gate: &Gate) -> Vec<Turn<'_>> {
        std::iter::from_fn(|| gate.try_enter()).take(100).collect()
    }

    #[test]
    fn nothing_is_held_back_before_the_store_complains() {
        let gate = Gate::default();
        let turns = enter(&gate);
        for turn in &turns {
            turn.answered(StatusCode::OK);
        }
        assert_eq!(turns.len(), 100);
    }

    #[test]
    fn a_complaint_halves_what_is_on_its_way_once_however_many_hear_it() {
        let gate = Gate::default();
        let turns: Vec<_> = (0..8).filter_map(|_| gate.try_enter()).collect();
        for turn in &turns {
            turn.answered(BUSY);
        }
        assert!(gate.try_enter().is_none());
        drop(turns);
        let turns = enter(&gate);
        assert_eq!(turns.len(), 4);
        turns[0].answered(StatusCode::TOO_MANY_REQUESTS);
        drop(turns);
        assert_eq!(enter(&gate).len(), 2);
    }

    #[test]
    fn one_request_may_always_be_on_its_way_and_good_answers_let_more_through() {
        let gate = Gate::default();
        for _ in 0..5 {
            gate.try_enter().unwrap().answered(BUSY);
        }
        assert_eq!(enter(&gate).len(), 1);
        for _ in 0..GOOD_ANSWERS {
            gate.try_enter().unwrap().answered(StatusCode::OK);
        }
        assert_eq!(enter(&gate).len(), 2);
        for _ in 0..20_000 {
            gate.try_enter().unwrap().answered(StatusCode::OK);
        }
        assert_eq!(enter(&gate).len(), 100);
    }

    #[tokio::test]
    async fn who_waits_is_let_through_when_another_is_done() {
        let gate = Gate::default();
        gate.try_enter().unwrap().answered(BUSY);
        let first = gate.enter().await;
        let (order, waiting) = (Mutex::new(Vec::new()), async {
            let _turn = gate.enter().await;
            "second"
        });
        let leaving = async {
            tokio::task::yield_now().await;
            order.lock().unwrap().push("first");
            drop(first);
        };
        let (second, ()) = tokio::join!(waiting, leaving);
        order.lock().unwrap().push(second);
        assert_eq!(*order.lock().unwrap(), ["first", "second"]);
    }
}
