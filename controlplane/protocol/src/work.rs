//! The costly part of handshake messages, set apart so that other threads can do it, several messages at once.
//!
//! A [`Device`](crate::Device) checks what is cheap, gives out [`Work`], and is given back what is [`Done`]; it decides
//! then, on the state of that moment, whether it still counts. Work knows nothing of the device: it holds copies of the
//! keys it needs, wiped when it goes.

use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::{PeerId, ReceiverIndex};

use crate::cookie::Signed;
use crate::handshake::Handled;
use crate::keys::{Exchange, PresharedKey, PrivateKey, multiply_all};
use crate::noise::{Accepted, Answer, Claimed, Exchanged, Initiated, Received, Secret, TransportKeys};
use crate::tai64n::TIMESTAMP_BYTES;

/// Multiplications one piece of work needs at most.
const EXCHANGES_MAX: usize = 3;

/// How far a message got.
pub enum Progress {
    /// To its end.
    Handled(Handled),
    /// To arithmetic. Whoever drops it drops the message.
    Work(Work),
}

/// Arithmetic to be done.
pub struct Work(Box<Step>);

/// Arithmetic that was done.
pub struct Done(Box<Outcome>);

/// Whose handshake it is and at which state of the peer, for the device to find its way back.
pub(crate) struct Ticket {
    pub(crate) peer: PeerId,
    pub(crate) epoch: u64,
    pub(crate) index: ReceiverIndex,
    pub(crate) source: Endpoint,
}

/// Where an initiation came from, and whether its sender can receive there; if not, what a cookie for it needs.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) source: Endpoint,
    pub(crate) has_cookie: bool,
    pub(crate) signed: Signed,
}

pub(crate) enum Step {
    /// `es` of an initiation.
    Claim { received: Received, private: PrivateKey, epoch: u64, origin: Origin },
    /// `ss` of an initiation that claims to be of a key we do not know.
    Introduce { claimed: Claimed, private: PrivateKey, epoch: u64, source: Endpoint },
    /// The responder's ephemeral key, `ee` and `se`.
    Respond { accepted: Accepted, ephemeral: PrivateKey, psk: PresharedKey, ticket: Ticket },
    /// `ee` and `se` of a response.
    Conclude { answer: Answer, initiated: Initiated, private: PrivateKey, psk: PresharedKey, ticket: Ticket },
}

pub(crate) enum Outcome {
    Claimed { claimed: Option<Claimed>, epoch: u64, origin: Origin },
    Introduced { accepted: Option<Accepted>, epoch: u64, source: Endpoint },
    Responded { response: Option<(Vec<u8>, TransportKeys)>, timestamp: [u8; TIMESTAMP_BYTES], ticket: Ticket },
    Concluded { keys: Option<TransportKeys>, ticket: Ticket },
}

impl Work {
    pub(crate) fn new(step: Step) -> Self {
        Self(Box::new(step))
    }

    /// Does it.
    #[must_use]
    pub fn perform(self) -> Done {
        let secrets = multiply_all(&self.exchanges());
        self.finish(&secrets)
    }

    /// Does several at once, which is cheaper where the processor multiplies in lanes.
    pub fn perform_all(works: impl IntoIterator<Item = Self>) -> Vec<Done> {
        let works: Vec<Self> = works.into_iter().collect();
        let exchanges: Vec<Exchange<'_>> = works.iter().flat_map(Self::exchanges).collect();
        let secrets = multiply_all(&exchanges);
        let mut rest = secrets.as_slice();
        let mut done = Vec::with_capacity(works.len());
        for work in works {
            let (own, others) = rest.split_at_checked(work.exchanges().len()).unwrap_or_default();
            rest = others;
            done.push(work.finish(own));
        }
        done
    }

    fn exchanges(&self) -> Vec<Exchange<'_>> {
        let mut exchanges = Vec::with_capacity(EXCHANGES_MAX);
        match &*self.0 {
            Step::Claim { received, private, .. } => exchanges.push(Exchange::shared(private, received.ephemeral())),
            Step::Introduce { claimed, private, .. } => exchanges.push(Exchange::shared(private, &claimed.peer)),
            Step::Respond { accepted, ephemeral, .. } => exchanges.extend([
                Exchange::public(ephemeral),
                Exchange::shared(ephemeral, &accepted.ephemeral),
                Exchange::shared(ephemeral, &accepted.peer),
            ]),
            Step::Conclude { answer, initiated, private, .. } => exchanges.extend([
                Exchange::shared(initiated.ephemeral(), &answer.ephemeral),
                Exchange::shared(private, &answer.ephemeral),
            ]),
        }
        exchanges
    }

    /// The rest of the arithmetic; a missing secret comes of a low-order point and ends the handshake.
    fn finish(self, secrets: &[Option<Secret>]) -> Done {
        let outcome = match *self.0 {
            Step::Claim { received, epoch, origin, .. } => {
                let claimed = match secrets {
                    [Some(es)] => received.claim(es),
                    _ => None,
                };
                Outcome::Claimed { claimed, epoch, origin }
            }
            Step::Introduce { claimed, epoch, source, .. } => {
                let accepted = match secrets {
                    [Some(ss)] => claimed.prove(ss),
                    _ => None,
                };
                Outcome::Introduced { accepted, epoch, source }
            }
            Step::Respond { accepted, psk, ticket, .. } => {
                let timestamp = accepted.timestamp;
                let response = match secrets {
                    [Some(public), Some(ee), Some(se)] => {
                        accepted.respond(&Exchanged { public, ee, se }, &psk, ticket.index.0)
                    }
                    _ => None,
                };
                Outcome::Responded { response, timestamp, ticket }
            }
            Step::Conclude { answer, initiated, psk, ticket, .. } => {
                let keys = match secrets {
                    [Some(ee), Some(se)] => initiated.conclude(&answer, ee, se, &psk),
                    _ => None,
                };
                Outcome::Concluded { keys, ticket }
            }
        };
        Done(Box::new(outcome))
    }
}

impl Done {
    pub(crate) fn outcome(self) -> Outcome {
        *self.0
    }
}
