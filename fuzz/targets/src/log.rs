//! What a target did, for whoever looks at one input.

use core::fmt::Debug;

/// Hears what happens: of what kind it is, and the thing itself.
pub type Listener<'a> = &'a dyn Fn(&str, &dyn Debug);

/// Passes on what happens, or does not.
#[derive(Clone, Copy)]
pub struct Log<'a> {
    listener: Option<Listener<'a>>,
}

impl<'a> Log<'a> {
    /// Nobody listens.
    pub fn off() -> Log<'a> {
        Log { listener: None }
    }

    /// Calls `listener` with what kind of thing happened, and the thing.
    pub fn to(listener: Listener<'a>) -> Log<'a> {
        Log { listener: Some(listener) }
    }

    /// Something happened.
    pub fn line(&self, kind: &str, thing: &dyn Debug) {
        if let Some(listener) = self.listener {
            listener(kind, thing);
        }
    }
}

impl Debug for Log<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Log").field("on", &self.listener.is_some()).finish()
    }
}
