-- Live-ops shows how a player's connections went: when, by which node and device, and with which close code they ended.
--
-- Lock: none; a table of its own. Runs before the new code, and code from before does not see it.

-- Connections that have ended: best effort, written by gateways a few seconds later, gone after 30 days.
CREATE TABLE player_connections (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- Ordered numbers of a player's connections, as sessions know them.
    connection bigint NOT NULL,
    experience_id varchar(100) NOT NULL,
    session_id uuid NOT NULL,
    device_id varchar(64) NOT NULL,
    node varchar(120) NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz NOT NULL,
    -- What we said; NULL when the socket just ended.
    close_code smallint,
    is_resumed boolean NOT NULL,
    updates bigint NOT NULL,
    rtt_ms real,
    PRIMARY KEY (user_id, connection)
);
-- Serves the removal of what is old.
CREATE INDEX idx_player_connections_closed ON player_connections (closed_at);
