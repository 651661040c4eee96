CREATE TABLE `hardware_prices` (
	`sku` text NOT NULL,
	`price_micros` integer NOT NULL,
	`valid_from` integer NOT NULL,
	PRIMARY KEY(`sku`, `valid_from`)
);
--> statement-breakpoint
ALTER TABLE `accounts` ADD `terms` text DEFAULT '{}' NOT NULL;--> statement-breakpoint
ALTER TABLE `accounts` ADD `zero_retention` integer DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE `accounts` ADD `deleted_at` integer;--> statement-breakpoint
ALTER TABLE `models` ADD `paused_reason` text;--> statement-breakpoint
ALTER TABLE `models` ADD `unhealthy_since` integer;--> statement-breakpoint
ALTER TABLE `prices` ADD `per` integer DEFAULT 1 NOT NULL;--> statement-breakpoint
ALTER TABLE `tokens` ADD `budget` text;--> statement-breakpoint
-- Tokens that may do everything keep doing so: a token cannot make one that may do more, so without this their accounts would never see their bills.
UPDATE `tokens` SET `scopes` = json_insert(json_insert(`scopes`, '$[#]', 'billing:read'), '$[#]', 'billing:write')
	WHERE `scopes` NOT LIKE '%"billing:%' AND (SELECT count(*) FROM json_each(`scopes`) WHERE `value` <> 'admin') = 12;
