//! Verbs in groups as the writer makes them: while one is written the next one is made, and stands ready to
//! be written after it, or is taken back and made further.

use std::time::Duration;

use halfmq_coordinator::store::Unavailable;
use halfmq_coordinator::store::embedded::{Engine, Sealed, Turn, Work};
use halfmq_core::RetryPolicy;
use rand::Rng;

use super::{World, group};

impl World {
    /// Has the verb run in a group of its own, or in one of two of which the second is sealed ahead.
    pub(super) fn run<T>(
        &mut self,
        engine: &mut Engine,
        work: Work,
        verb: impl FnOnce(&mut Turn<'_>) -> T,
    ) -> Result<T, Unavailable> {
        let mut answer = None;
        let verb = |engine: &mut Engine| {
            engine.admit(work)?;
            answer = Some(verb(&mut engine.turn()));
            Ok(())
        };
        let touch = self.touch();
        match self.chance.random_range(0..4) {
            0 => self.two_groups(engine, touch, verb),
            1 => self.two_groups(engine, verb, touch),
            _ => verb(engine).and_then(|()| engine.commit()),
        }?;
        Ok(answer.expect("the verb has run"))
    }

    fn two_groups(
        &mut self,
        engine: &mut Engine,
        first: impl FnOnce(&mut Engine) -> Result<(), Unavailable>,
        second: impl FnOnce(&mut Engine) -> Result<(), Unavailable>,
    ) -> Result<(), Unavailable> {
        first(engine)?;
        let on_its_way = engine.seal()?;
        let mut made = second(engine);
        let mut ready = engine.seal_ahead();
        if self.chance.random_bool(0.3)
            && let Some(sealed) = ready.take()
        {
            engine.reopen(sealed);
            made = made.and_then(|()| self.touch()(engine));
            ready = engine.seal_ahead();
        }
        if self.chance.random_bool(0.3) {
            // What is due waits for both.
            self.clock.advance(Duration::from_millis(500));
            engine.upkeep();
        }
        for group in [on_its_way, ready].into_iter().flatten() {
            write(engine, group)?;
        }
        made?;
        engine.commit()
    }

    /// Writes something that nobody asks about, unless the disk is nearly full.
    fn touch(&mut self) -> impl FnOnce(&mut Engine) -> Result<(), Unavailable> + use<> {
        self.touches += 1;
        let retry = RetryPolicy { attempts_max: 500 + self.touches % 500, ..RetryPolicy::default() };
        |engine| {
            match engine.admit(Work::New { bytes: 0 }) {
                Err(Unavailable::Full) => return Ok(()),
                admitted => admitted?,
            }
            let mut turn = engine.turn();
            let (_, ledger, log) = turn.parts();
            ledger.configure_group(&group(), retry, log).expect("a legal policy");
            Ok(())
        }
    }
}

fn write(engine: &mut Engine, group: Sealed) -> Result<(), Unavailable> {
    let written = group.write();
    engine.settle(group, written)
}
