// Calls of the server: they wait where it is busy, ask for the token where one is needed, and fail in words.

const BUSY_TRIES = 8;
let unlock = () => Promise.reject(new Error('a token is needed'));

/** Say how a token is asked for: a function that gives a promise of it. */
export function onLocked(ask) {
  unlock = ask;
}

/** Open a session with a token; whether the server took it. */
export async function openSession(token) {
  const answer = await request('/api/session', { method: 'POST', headers: { authorization: `Bearer ${token}` } });
  return answer.ok;
}

/** POST of json, or GET where there is none; the answer. */
export async function call(path, body, signal) {
  const options = body === undefined ? { signal } : {
    method: 'POST', signal, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
  };
  for (let tried = 1; ; tried += 1) {
    const answer = await request(path, options);
    if (answer.ok) return answer;
    if (answer.status === 401) {
      await unlock();
    } else if (answer.status === 503 && tried < BUSY_TRIES) {
      await new Promise((done) => { setTimeout(done, 1000 * (Number(answer.headers.get('retry-after')) || 1)); });
    } else {
      throw new Error(await words(answer));
    }
  }
}

async function request(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('the server does not answer; is it still running?');
  }
}

async function words(answer) {
  try {
    return (await answer.json()).message;
  } catch {
    return `the server answered with status ${answer.status}`;
  }
}

/** Address of an image: a tile, small or large, or the whole image that it is of. */
export function imageAddress(tileId, size) {
  return `/api/images/${tileId.split('/').map(encodeURIComponent).join('/')}?size=${size}`;
}
