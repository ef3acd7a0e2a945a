import { shownUserCode, type UserCode } from "../../signin/code.ts";
import type { PendingLogin } from "../../signin/login.ts";
import { html, type Html } from "../http/html.ts";

const STYLE = `
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
label, dt { display: block; font-weight: 600; margin-top: 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
input:not([type="radio"]) { font: inherit; width: 100%; box-sizing: border-box; padding: 0.5rem; }
fieldset { margin: 1.5rem 0; }
fieldset label { font-weight: 400; margin-top: 0.5rem; }
button { font: inherit; padding: 0.5rem 1.5rem; margin: 1.5rem 0.5rem 0 0; }
.code { font: 700 1.75rem/1.5 ui-monospace, monospace; letter-spacing: 0.1em; }
.alert { border-left: 0.3rem solid #b00020; padding: 0.5rem 1rem; }
`;
/** By which the content security policy lets it in. */
export const STYLE_HASH = `sha256-${new Bun.CryptoHasher("sha256").update(STYLE).digest("base64")}`;

/** Not in a template, which the formatter would change. */
const STYLE_TAG: Html = { markup: `<style>${STYLE}</style>` };

const NOTHING: Html = { markup: "" };

function layout(title: string, body: Html): Html {
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title} · Cofferdam</title>
        ${STYLE_TAG}
      </head>
      <body>
        <main>
          <h1>${title}</h1>
          ${body}
        </main>
      </body>
    </html> `;
}

function alertOf(text: string | undefined): Html {
  return text === undefined ? NOTHING : html`<p class="alert" role="alert">${text}</p>`;
}

/** The first step. The key goes back to the server, never into a page. */
export function askPage({ code, alert }: { code: UserCode | null; alert?: string }): Html {
  return layout(
    "Sign in a program",
    html`${alertOf(alert)}
      <p>A program that shows a code wants to use this appliance. Go on only if you started it yourself.</p>
      <form method="post" action="/device">
        <label for="code">The code that it shows</label>
        <input
          id="code"
          name="user_code"
          value="${code === null ? "" : shownUserCode(code)}"
          required
          maxlength="20"
          autocomplete="off"
          autocapitalize="characters"
          spellcheck="false"
        />
        <label for="key">An admin key of the workspace</label>
        <input
          id="key"
          name="admin_key"
          type="password"
          required
          maxlength="200"
          autocomplete="off"
          spellcheck="false"
        />
        <button>Next</button>
      </form>`,
  );
}

export interface Confirm {
  readonly login: PendingLogin;
  readonly code: UserCode;
  readonly workspaceId: string;
  readonly confirmation: string;
  readonly alert?: string;
}

/** The second step: who asks, and what it gets. */
export function confirmPage({ login, code, workspaceId, confirmation, alert }: Confirm): Html {
  return layout(
    "Is this your program?",
    html`${alertOf(alert)}
      <p>
        Compare the code with the one that the program shows. If somebody sent you here, or you don't know the
        address, deny.
      </p>
      <dl>
        <dt>Code</dt>
        <dd class="code">${shownUserCode(code)}</dd>
        <dt>Asked from the address</dt>
        <dd>${login.address}</dd>
        <dt>The program calls itself</dt>
        <dd>${login.client}</dd>
        <dt>Asked at</dt>
        <dd>${utc(login.createdAt)}; the code ends at ${utc(login.expiresAt)}</dd>
      </dl>
      <form method="post" action="/device">
        <input type="hidden" name="confirmation" value="${confirmation}" />
        <fieldset>
          <legend>What it gets a key for</legend>
          <label
            ><input type="radio" name="grant" value="workspace" checked /> The workspace ${workspaceId}: all
            files and commands in any namespace</label
          >
          <label><input type="radio" name="grant" value="namespace" /> Only one namespace:</label>
          <input
            name="namespace"
            aria-label="Namespace"
            maxlength="128"
            autocomplete="off"
            autocapitalize="none"
            spellcheck="false"
          />
        </fieldset>
        <button name="answer" value="approve">Approve</button>
        <button name="answer" value="deny">Deny</button>
      </form>`,
  );
}

export function donePage(title: string, text: string): Html {
  return layout(title, html`<p role="status">${text}</p>`);
}

/** "2026-11-26 17:57:03 UTC" */
function utc(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}
