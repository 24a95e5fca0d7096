//! Who may be a peer without being configured: asks the directory first and then the authoriser.
//!
//! The walk of a question: the gateway tells of a stranger; what is remembered of it answers at once; else a task of its
//! own waits for its turn, asks, and is given up after a timeout. What it brought is settled in the control plane's
//! thread: the stranger becomes a peer, or is refused for a while, or, if nobody could say, may come again. Meanwhile it
//! waits for nothing: its own next initiation finds what was decided. Before a grant ends it is asked about again, so that
//! a yes prolongs it without an interruption. The number of questions, of those under way and
//! of what is remembered is bounded, and peers that are known wait for none of this.

pub mod answer;
pub mod directory;
mod http;
mod journal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use linegate_dataplane::clock::Clock;
use linegate_protocol::PublicKey;
use linegate_wire::time::{Instant, Now};
use lru::LruCache;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::{self, JoinSet};

use crate::config::{AuthoriserAddress, OnDemandSettings};
use crate::gateway::on_demand::{Admitted, Gone, Grant, Limits, Stranger, Why};
use crate::gateway::{Gateway, Outcome, Outside};
use crate::status::OnDemandStatus;
use answer::{AnswerError, Verdict};
use directory::{Directory, DirectoryError};
use journal::Journal;

/// Questions that wait or are under way; beyond, strangers are passed over and may come again.
pub const QUESTIONS_MAX: usize = 1024;

/// Of these, questions to the authoriser; the rest is for the directory, which may still answer when the other hangs.
const WAITING_MAX: usize = QUESTIONS_MAX / 2;

/// Answers remembered; the one that was used longest ago goes first.
const ANSWERS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// How long it is remembered that a key is not in the directory, where nobody else is asked: a file that is put there
/// counts soon.
const ABSENCE_REMEMBERED: Duration = Duration::from_secs(5);

/// Events as `linegate status` and the metrics call them.
const EVENTS: [&str; 12] = [
    "allowed",
    "asked",
    "cached",
    "evicted_expired",
    "evicted_idle",
    "evicted_refused",
    "failed",
    "not_admitted",
    "overflowed",
    "refused",
    "renewed",
    "timed_out",
];

/// What the authoriser is asked, as JSON.
#[derive(Debug, Clone, Serialize)]
struct Question {
    /// Of this form.
    version: u32,
    interface: String,
    /// Base64, as `wg` writes it.
    public_key: String,
    /// Address and port of the stranger.
    source: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody takes questions there.
    #[error("nobody listens there ({0})")]
    Connect(io::Error),
    /// What came is not HTTP, or it ended too early.
    #[error("the exchange broke off ({0})")]
    Http(#[from] hyper::Error),
    /// The answer is none.
    #[error("HTTP status {0}, expected 200, with \"allow\": false to refuse")]
    Status(u16),
    /// There is too much of it.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// It cannot be understood.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The directory could not be asked.
    #[error("the directory: {0}")]
    Directory(#[from] DirectoryError),
    /// Too many wait for the authoriser.
    #[error("{WAITING_MAX} questions to the authoriser wait already")]
    Crowded,
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// A task of ours ended.
    #[error("the question was lost ({0})")]
    Lost(#[from] task::JoinError),
}

impl AskError {
    fn event(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "timed_out",
            Self::Crowded => "overflowed",
            Self::Connect(_)
            | Self::Http(_)
            | Self::Status(_)
            | Self::TooLarge(_)
            | Self::Answer(_)
            | Self::Directory(_)
            | Self::Lost(_) => "failed",
        }
    }
}

/// What a question led to.
#[derive(Debug)]
pub struct Answered {
    stranger: Stranger,
    verdict: Result<Verdict, AskError>,
}

/// A yes that holds for further initiations.
#[derive(Debug)]
struct Remembered {
    grant: Grant,
    until: Instant,
}

/// See the module's description.
#[derive(Debug)]
pub struct Authoriser {
    sources: Arc<Sources>,
    remember: Duration,
    limits: Limits,
    questions: JoinSet<Answered>,
    asked: HashMap<PublicKey, task::Id>,
    answers: LruCache<PublicKey, Remembered>,
    counts: BTreeMap<&'static str, u64>,
    arrivals: Journal,
    refusals: Journal,
    failures: Journal,
}

/// Whom to ask.
#[derive(Debug)]
struct Sources {
    interface: String,
    directory: Option<Directory>,
    authoriser: Option<AuthoriserAddress>,
    timeout: Duration,
    /// Those who look into the directory, and those who ask the authoriser: neither waits for the other.
    looks: Arc<Semaphore>,
    turns: Semaphore,
    /// For those who ask it or wait for that.
    places: Semaphore,
}

impl Authoriser {
    /// Nothing, if there is nobody to ask.
    #[must_use]
    pub fn new(settings: &OnDemandSettings, interface: &str) -> Option<Self> {
        let OnDemandSettings { directory, authoriser, timeout, concurrent, per_second, peers_max, idle, remember } =
            settings.clone();
        if directory.is_none() && authoriser.is_none() {
            return None;
        }
        let directory = directory.map(Directory::new);
        Some(Self {
            sources: Arc::new(Sources {
                interface: interface.to_owned(),
                directory,
                authoriser,
                timeout,
                looks: Arc::new(Semaphore::new(concurrent)),
                turns: Semaphore::new(concurrent),
                places: Semaphore::new(WAITING_MAX),
            }),
            remember,
            limits: Limits { peers_max, idle, per_second },
            questions: JoinSet::new(),
            asked: HashMap::new(),
            answers: LruCache::new(ANSWERS_MAX),
            counts: EVENTS.iter().map(|event| (*event, 0)).collect(),
            arrivals: Journal::new("peers on demand that came and went"),
            refusals: Journal::new("strangers that were refused"),
            failures: Journal::new("questions that failed"),
        })
    }

    /// What peers on demand may take, for the gateway.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What happened so far, and what is under way.
    #[must_use]
    pub fn status<O: Outside>(&self, gateway: &Gateway<O>) -> OnDemandStatus {
        OnDemandStatus {
            peers: gateway.on_demand_len(),
            questions: self.asked.len(),
            events: self.counts.iter().map(|(&event, &count)| (event.to_owned(), count)).collect(),
        }
    }

    /// Asks about everybody anew, when they come.
    pub fn forget<O: Outside>(&mut self, gateway: &mut Gateway<O>) {
        self.answers.clear();
        gateway.forget_refusals();
    }

    /// Sees to who came in a turn of the gateway, and who went.
    pub fn follow<O: Outside>(&mut self, outcome: Outcome, gateway: &mut Gateway<O>, now: Now) {
        outcome.gone.into_iter().for_each(|gone| self.part(gone, now));
        outcome.strangers.into_iter().for_each(|stranger| self.meet(stranger, gateway, now));
        outcome.renewals.into_iter().for_each(|stranger| self.ask(stranger, now));
    }

    /// Sees to a stranger.
    fn meet<O: Outside>(&mut self, stranger: Stranger, gateway: &mut Gateway<O>, now: Now) {
        let remembered = self.answers.get(&stranger.key).filter(|remembered| now.mono < remembered.until);
        match remembered.map(|remembered| remembered.grant.clone()) {
            Some(grant) => {
                self.count("cached");
                self.admit(stranger, &grant, gateway, now);
            }
            None => self.ask(stranger, now),
        }
    }

    /// Asks in a task of its own, unless that is under way.
    fn ask(&mut self, stranger: Stranger, now: Now) {
        if self.asked.contains_key(&stranger.key) {
            return;
        }
        if self.asked.len() >= QUESTIONS_MAX {
            self.count("overflowed");
            if self.failures.allows(now.mono) {
                tracing::warn!("{QUESTIONS_MAX} questions about strangers wait already: more are passed over");
            }
            return;
        }
        self.count("asked");
        let sources = Arc::clone(&self.sources);
        let question = self.questions.spawn(async move {
            let limit = sources.timeout;
            let verdict = tokio::time::timeout(limit, sources.ask(stranger)).await;
            Answered { stranger, verdict: verdict.unwrap_or(Err(AskError::TimedOut(limit))) }
        });
        self.asked.insert(stranger.key, question.id());
    }

    /// The next answer; none ever while nothing is asked.
    pub async fn next(&mut self) -> Answered {
        loop {
            match self.questions.join_next().await {
                Some(Ok(answered)) => return answered,
                Some(Err(lost)) => self.asked.retain(|_, id| *id != lost.id()),
                None => std::future::pending().await,
            }
        }
    }

    /// Carries out what was answered.
    pub fn settle<O: Outside>(&mut self, answered: Answered, gateway: &mut Gateway<O>, now: Now) {
        let Answered { stranger, verdict } = answered;
        self.asked.remove(&stranger.key);
        let source = stranger.source.remote;
        match verdict {
            Ok(Verdict::Allow { grant, remember }) => {
                self.count("allowed");
                let until = now.mono + remember.unwrap_or(self.remember);
                let until = grant.expiry.map_or(until, |expiry| expiry.at.min(until));
                if self.admit(stranger, &grant, gateway, now) {
                    self.answers.put(stranger.key, Remembered { grant, until });
                } else {
                    self.answers.pop(&stranger.key);
                }
            }
            Ok(Verdict::Refuse { reason, remember }) => {
                self.count("refused");
                let remember = remember.unwrap_or(self.remember);
                gateway.refuse_stranger(&stranger.key, now.mono + remember);
                if self.refusals.allows(now.mono) {
                    let (key, reason) = (name(&stranger.key), reason.unwrap_or_default());
                    tracing::info!(key, %source, reason, "a stranger was refused for {} s", remember.as_secs());
                }
            }
            // Nothing is remembered of a failure: the stranger's next initiation asks again.
            Err(error) => {
                self.count(error.event());
                if self.failures.allows(now.mono) {
                    let whom = self.sources.authoriser.as_ref().map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(key = name(&stranger.key), %source, whom, "a question about a stranger failed: {error}");
                }
            }
        }
    }

    /// Notes who is no more.
    fn part(&mut self, gone: Gone, now: Now) {
        let Gone { key, name: called, why } = gone;
        let why = match why {
            Why::Idle => {
                self.count("evicted_idle");
                "nothing came from it for too long"
            }
            Why::Expired => {
                self.count("evicted_expired");
                self.answers.pop(&key);
                "its time is over"
            }
            Why::Refused => {
                self.count("evicted_refused");
                self.answers.pop(&key);
                "it was refused when it was asked about again"
            }
            // Whoever removed it does not want to see it again because of an answer from before.
            Why::Removed => {
                self.answers.pop(&key);
                "it was removed by wg"
            }
        };
        if self.arrivals.allows(now.mono) {
            tracing::info!(key = name(&key), name = called.unwrap_or_default(), "a peer on demand is gone: {why}");
        }
    }

    /// Makes a stranger a peer, or prolongs what it has; if that cannot be, it is refused for a while.
    fn admit<O: Outside>(&mut self, stranger: Stranger, grant: &Grant, gateway: &mut Gateway<O>, now: Now) -> bool {
        let (key, source) = (name(&stranger.key), stranger.source.remote);
        let called = grant.name.as_deref().unwrap_or_default();
        match gateway.admit(stranger.key, grant, now) {
            Ok(Admitted::New) => {
                if self.arrivals.allows(now.mono) {
                    tracing::info!(key, %source, name = called, "a stranger became a peer on demand");
                }
                true
            }
            Ok(Admitted::Renewed) => {
                self.count("renewed");
                true
            }
            Ok(Admitted::Configured) => false,
            Err(reason) => {
                self.count("not_admitted");
                gateway.refuse_stranger(&stranger.key, now.mono + self.remember);
                if self.failures.allows(now.mono) {
                    tracing::warn!(key, %source, name = called, "a stranger that was allowed did not become a peer: {reason}");
                }
                false
            }
        }
    }

    fn count(&mut self, event: &'static str) {
        *self.counts.entry(event).or_insert(0) += 1;
    }
}

/// The next answer of an authoriser that there may not be.
pub async fn next(authoriser: Option<&mut Authoriser>) -> Answered {
    match authoriser {
        Some(authoriser) => authoriser.next().await,
        None => std::future::pending().await,
    }
}

impl Sources {
    /// Asks one after the other.
    async fn ask(self: Arc<Self>, stranger: Stranger) -> Result<Verdict, AskError> {
        if self.directory.is_some() {
            let turn = Arc::clone(&self.looks).acquire_owned().await;
            let sources = Arc::clone(&self);
            // A look-up that stands still keeps its turn, so that no more than these stand still with it.
            let look_up = task::spawn_blocking(move || {
                let _turn = turn;
                let directory = sources.directory.as_ref();
                directory.map(|directory| directory.look_up(&stranger.key, Clock.both())).transpose()
            });
            if let Some(verdict) = look_up.await??.flatten() {
                return Ok(verdict);
            }
        }
        let Some(address) = &self.authoriser else {
            let reason = Some("not in the directory".into());
            return Ok(Verdict::Refuse { reason, remember: Some(ABSENCE_REMEMBERED) });
        };
        let _place = self.places.try_acquire().map_err(|_| AskError::Crowded)?;
        let _turn = self.turns.acquire().await;
        let question = Question {
            version: 1,
            interface: self.interface.clone(),
            public_key: name(&stranger.key),
            source: stranger.source.remote.to_string(),
        };
        http::ask(address, &question, Clock.both()).await
    }
}

/// A key as `wg` writes it.
fn name(key: &PublicKey) -> String {
    BASE64_STANDARD.encode(key.as_bytes())
}
