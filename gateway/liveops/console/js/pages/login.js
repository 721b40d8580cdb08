// Logging in, and the first operator's account through the one-time link that the first start printed.
import { post } from "../api.js";
import { html, useState } from "../preact.js";
import { Field, Trouble } from "../ui.js";

const PASSWORD_CHARS_MIN = 10;

export function LoginPage({ onDone }) {
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    setBusy(true);
    setError(null);
    try {
      onDone(await post("login", { name: form.get("name"), password: form.get("password") }));
    } catch (trouble) {
      setError(trouble);
      setBusy(false);
    }
  };
  return html`<main class="alone"><form class="panel login" onSubmit=${submit}>
    <h1><img src="icon.svg" alt="" width="36" height="36" /> Wayhold console</h1>
    <${Field} label="Name"><input name="name" required autofocus autocomplete="username" autocapitalize="none" spellcheck=${false} /><//>
    <${Field} label="Password"><input name="password" type="password" required autocomplete="current-password" /><//>
    ${error && html`<${Trouble} error=${error} />`}
    <button type="submit" class="primary" disabled=${isBusy}>${isBusy ? "Logging in …" : "Log in"}</button>
    <p class="dim">No account yet? The first start prints a link for the first one; afterwards an admin makes them with <code>wayhold operators</code>.</p>
  </form></main>`;
}

export function SetupPage({ setupKey, onDone }) {
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    if (form.get("password") !== form.get("again")) {
      return setError({ message: "The two passwords differ.", code: "", next: "" });
    }
    setBusy(true);
    setError(null);
    try {
      const me = await post("setup", { key: setupKey, name: form.get("name"), password: form.get("password") });
      // The key has done its work and need not stay in the history.
      history.replaceState(null, "", "#/overview");
      dispatchEvent(new HashChangeEvent("hashchange"));
      onDone(me);
    } catch (trouble) {
      setError(trouble);
      setBusy(false);
    }
  };
  return html`<main class="alone"><form class="panel login" onSubmit=${submit}>
    <h1><img src="icon.svg" alt="" width="36" height="36" /> The first account</h1>
    <p>It is an admin's: it may do everything, and make accounts for others. There is no default password.</p>
    <${Field} label="Name"><input name="name" required autofocus autocomplete="username" autocapitalize="none" spellcheck=${false} /><//>
    <${Field} label="Password" help="At least ${PASSWORD_CHARS_MIN} characters"><input name="password" type="password" required minlength=${PASSWORD_CHARS_MIN} autocomplete="new-password" /><//>
    <${Field} label="Once more"><input name="again" type="password" required autocomplete="new-password" /><//>
    ${error && html`<${Trouble} error=${error} />`}
    <button type="submit" class="primary" disabled=${isBusy}>${isBusy ? "One moment …" : "Make the account"}</button>
    <p class="dim">The link works once. <a href="#/overview" onClick=${() => setTimeout(() => location.reload())}>I have an account</a></p>
  </form></main>`;
}
