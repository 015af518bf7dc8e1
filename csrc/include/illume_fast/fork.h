// Whether this process was forked from one that had loaded the extension: OpenMP's threads stayed behind then, and to wait
// for them would be to wait for ever.
#pragma once

namespace illume_fast {

bool forked();

}  // namespace illume_fast
