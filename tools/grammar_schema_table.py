"""The schemas that make_grammar_schemas.py writes.

Each schema is one line. Fields are name:type, a name ending in ? is optional. Types: s string, s{a,b} with a length,
i integer, i[a,b], n number, n[a,b], b boolean, (x|y) an enum, @date a format, ~regex~ a pattern, =text a constant,
[type] an array, [type]{a,b} with a length, {fields} an object, $name a definition, %type a map, type! or null.
"""
TOOLS = """
get_weather location:s unit?:(celsius|fahrenheit)
get_forecast city:s days:i[1,14] include_hourly?:b
search_web query:s max_results?:i[1,50] site?:s
send_email to:[@email] subject:s body:s cc?:[@email] attachments?:[s]
create_event title:s start:@date-time end:@date-time attendees?:[@email] location?:s reminder_minutes?:i[0,10080]
delete_event event_id:@uuid notify?:b
book_flight origin:~^[A-Z]{3}$~ destination:~^[A-Z]{3}$~ departure:@date return?:@date passengers:i[1,9] cabin:(economy|premium|business|first)
book_hotel city:s check_in:@date check_out:@date guests:i[1,12] stars?:i[1,5]
convert_currency amount:n[0,1000000] from:~^[A-Z]{3}$~ to:~^[A-Z]{3}$~
translate text:s source_language?:s target_language:s formality?:(default|formal|informal)
run_sql query:s database:s read_only?:b timeout_seconds?:i[1,600]
execute_python code:s timeout?:i[1,300]
read_file path:s offset?:i[0,100000000] limit?:i[1,100000]
write_file path:s content:s append?:b encoding?:(utf-8|latin-1|ascii)
list_directory path:s recursive?:b pattern?:s
move_file source:s destination:s overwrite?:b
run_command command:[s]{1,40} cwd?:s env?:%s
git_commit message:s files:[s] amend?:b
open_pull_request title:s body:s base:s head:s draft?:b reviewers?:[s]
create_issue title:s{1,256} body?:s labels?:[s]{0,20} assignee?:s! milestone?:i!
close_issue number:i[1,1000000] reason:(completed|not_planned|duplicate)
set_thermostat temperature:n[5,35] mode:(heat|cool|auto|off) zone?:s
control_light device_id:s on:b brightness?:i[0,100] color?:~^#[0-9a-fA-F]{6}$~
play_music artist?:s track?:s playlist?:s volume?:i[0,100] shuffle?:b
set_timer seconds:i[1,86400] label?:s
set_alarm time:~^([01][0-9]|2[0-3]):[0-5][0-9]$~ days?:[(mon|tue|wed|thu|fri|sat|sun)]{0,7} label?:s
find_restaurants location:s cuisine?:s price_level?:i[1,4] open_now?:b radius_m?:i[100,50000]
reserve_table restaurant_id:s time:@date-time party_size:i[1,20] notes?:s{0,200}
get_directions origin:s destination:s mode:(driving|walking|transit|cycling) avoid?:[(tolls|highways|ferries)]
get_stock_price symbol:~^[A-Z]{1,5}$~ exchange?:s
place_order symbol:~^[A-Z]{1,5}$~ side:(buy|sell) quantity:i[1,100000] type:(market|limit|stop) limit_price?:n[0,1000000]!
cancel_order order_id:@uuid
transfer_money from_account:~^[0-9]{8,12}$~ to_account:~^[0-9]{8,12}$~ amount:n[0.01,50000] memo?:s{0,140}
pay_invoice invoice_id:s method:(card|bank|wallet) save_method?:b
track_package tracking_number:s{8,40} carrier?:(ups|fedex|dhl|usps)
create_ticket subject:s priority:(low|normal|high|urgent) description:s tags?:[s] requester?:{name:s email:@email}
update_ticket id:i status?:(new|open|pending|solved|closed) comment?:s public?:b
lookup_user user_id?:i email?:@email
update_profile display_name?:s{1,50} bio?:s{0,160} website?:@uri location?:s
upload_image url:@uri alt?:s{0,300} width?:i[1,10000] height?:i[1,10000]
resize_image path:s width:i[1,8192] height:i[1,8192] keep_aspect?:b format?:(png|jpeg|webp)
generate_image prompt:s{1,1000} size:(256x256|512x512|1024x1024) n?:i[1,10] style?:(vivid|natural)
transcribe_audio file:s language?:~^[a-z]{2}(-[A-Z]{2})?$~ timestamps?:b
text_to_speech text:s voice:(alloy|echo|fable|onyx|nova) speed?:n[0.25,4]
summarize text:s max_words?:i[10,1000] bullet_points?:b
classify text:s labels:[s]{2,50} multi_label?:b
extract_entities text:s types:[(person|organization|location|date|money)]{1,5}
calculate expression:s precision?:i[0,15]
solve_equation equation:s variable:s domain?:(real|complex|integer)
plot_function expression:s x_min:n x_max:n samples?:i[2,10000]
query_database table:s columns?:[s] where?:[{column:s op:(eq|ne|lt|le|gt|ge|like) value:s}] order_by?:s descending?:b limit?:i[1,1000]
http_request method:(GET|POST|PUT|PATCH|DELETE) url:@uri headers?:%s body?:s
scrape_page url:@uri selector?:s wait_ms?:i[0,30000]
click_element selector:s button?:(left|right|middle) count?:i[1,3]
type_text selector:s text:s submit?:b
take_screenshot full_page?:b path?:s
scroll_page direction:(up|down) amount?:i[1,10000]
search_products query:s category?:s min_price?:n[0,100000] max_price?:n[0,100000] sort?:(relevance|price_asc|price_desc|rating)
add_to_cart product_id:s quantity:i[1,99] options?:%s
checkout cart_id:@uuid address_id:s payment:{type:(card|paypal) token:s} gift?:b
schedule_meeting topic:s duration_minutes:i[15,480] participants:[{name:s email:@email optional?:b}]{1,30}
set_reminder text:s at:@date-time repeat?:(none|daily|weekly|monthly)
create_note title:s content:s tags?:[s]{0,10} pinned?:b
search_notes query:s tag?:s before?:@date after?:@date
log_meal food:s calories:i[0,5000] meal:(breakfast|lunch|dinner|snack) protein_g?:n[0,500]
log_workout kind:(run|bike|swim|lift|yoga) minutes:i[1,600] distance_km?:n[0,500] heart_rate?:i[30,230]
get_news topic:s country?:~^[a-z]{2}$~ page?:i[1,100]
define_word word:s language?:s
roll_dice count:i[1,100] sides:i[2,1000] modifier?:i[-100,100]
random_choice options:[s]{1,100}
get_time timezone:s
list_processes filter?:s sort_by?:(cpu|memory|pid)
kill_process pid:i[1,4194304] signal?:(TERM|KILL|HUP)
deploy_service service:s version:~^v?\\d+\\.\\d+\\.\\d+$~ environment:(dev|staging|production) replicas?:i[1,100]
scale_service service:s replicas:i[0,1000]
rollback_service service:s revision?:i
query_metrics expression:s start:@date-time end:@date-time step_seconds?:i[1,86400]
create_alert name:s expression:s threshold:n for_minutes?:i[0,1440] severity:(info|warning|critical) channels:[s]
search_logs query:s level?:(debug|info|warn|error) since?:@date-time limit?:i[1,10000]
create_dns_record zone:s name:s type:(A|AAAA|CNAME|MX|TXT) value:s ttl?:i[60,86400]
invite_member email:@email role:(viewer|editor|admin) team?:s
grant_permission principal:s resource:s actions:[(read|write|delete|share)]{1,4}
tag_resource resource_id:s tags:%s
finish answer:s confidence?:n[0,1]
ask_user question:s options?:[s]{2,6}
delegate agent:s task:s context?:s deadline?:@date-time
store_memory key:s value:s ttl_days?:i[1,3650]
recall_memory query:s top_k?:i[1,100] min_score?:n[0,1]
vector_search collection:s query:s top_k:i[1,100] filter?:%s
edit_file path:s edits:[{old_text:s new_text:s}]{1,50}
apply_patch patch:s dry_run?:b
run_tests path?:s pattern?:s verbose?:b fail_fast?:b
compare_texts left:s right:s ignore_case?:b
detect_language text:s candidates?:[s]
geocode address:s country?:~^[A-Z]{2}$~
reverse_geocode latitude:n[-90,90] longitude:n[-180,180]
air_quality latitude:n[-90,90] longitude:n[-180,180] pollutants?:[(pm25|pm10|o3|no2)]
tide_table station:s date:@date units?:(metric|imperial)
"""

OBJECTS = """
person first_name:s last_name:s age:i[0,150] email?:@email
address street:s city:s postal_code:~^[0-9]{5}(-[0-9]{4})?$~ country:~^[A-Z]{2}$~ state?:s
contact name:s phones:[{kind:(home|work|mobile) number:~^\\+?[0-9 ]{5,20}$~}] emails?:[@email] notes?:s!
employee id:i name:s department:(engineering|sales|support|finance|legal) salary:n[0,10000000] manager_id:i! start_date:@date
customer id:@uuid name:s billing:{street:s city:s country:s} shipping?:{street:s city:s country:s} vip:b
product sku:~^[A-Z]{3}-[0-9]{4,8}$~ name:s price:n[0,100000] currency:(USD|EUR|GBP|JPY) stock:i[0,1000000] tags:[s]
order id:@uuid placed:@date-time lines:[{sku:s quantity:i[1,999] unit_price:n[0,100000]}]{1,100} total:n[0,10000000] status:(new|paid|shipped|done)
invoice number:s date:@date due:@date seller:{name:s vat?:s} buyer:{name:s vat?:s} items:[{text:s amount:n vat_rate:n[0,1]}] paid:b
receipt merchant:s date:@date total:n[0,1000000] tax?:n[0,1000000] lines:[{description:s amount:n}]
payment id:s amount_cents:i[0,100000000] currency:~^[A-Z]{3}$~ method:(card|sepa|cash) succeeded:b failure:s!
book title:s authors:[s]{1,20} isbn?:~^97[89][0-9]{10}$~ year:i[1400,2100] pages?:i[1,20000] genres:[s]
movie title:s year:i[1880,2100] rating:n[0,10] directors:[s] cast:[{actor:s role:s}] runtime_minutes:i[1,1000]
song title:s artist:s album?:s! seconds:i[1,36000] explicit:b
recipe name:s servings:i[1,100] ingredients:[{name:s amount:n unit?:(g|ml|tsp|tbsp|cup|piece)}] steps:[s]{1,50} minutes?:i[1,2000]
article headline:s author:{name:s handle?:s} published:@date-time paragraphs:[s] tags?:[s]
review product:s stars:i[1,5] title?:s{0,100} text:s verified:b pros?:[s] cons?:[s]
survey question:s answers:[{text:s votes:i[0,1000000]}]{2,20} closed:b
quiz topic:s questions:[{question:s choices:[s]{4,4} answer_index:i[0,3] explanation?:s}]
flashcard front:s back:s difficulty:(easy|medium|hard) due?:@date
resume name:s headline?:s skills:[s] jobs:[{company:s title:s from:@date to:@date! summary?:s}] education:[{school:s degree:s year:i[1900,2100]}]
patient id:s name:s born:@date blood:(A+|A-|B+|B-|AB+|AB-|0+|0-) allergies:[s] medications:[{name:s dose_mg:n[0,10000] per_day:i[1,24]}]
lab_result test:s value:n unit:s low:n! high:n! abnormal:b
appointment doctor:s patient:s start:@date-time minutes:i[5,480] kind:(checkup|followup|emergency)
prescription drug:s strength:s form:(tablet|capsule|liquid|cream) quantity:i[1,1000] refills:i[0,12]
vehicle vin:~^[A-HJ-NPR-Z0-9]{17}$~ make:s model:s year:i[1900,2100] electric:b mileage_km?:i[0,2000000]
flight number:~^[A-Z]{2}[0-9]{1,4}$~ from:s to:s departs:@date-time arrives:@date-time gate?:s! delayed:b
hotel name:s stars:i[1,5] rooms:[{type:(single|double|suite) price:n[0,10000] free:i[0,1000]}] amenities:[(wifi|pool|gym|spa|parking)]
trip name:s from:@date to:@date stops:[{city:s nights:i[0,60] notes?:s}]{1,30}
weather station:s time:@date-time temperature_c:n[-90,60] humidity:i[0,100] wind:{speed_ms:n[0,120] direction_deg:i[0,359]} condition:(clear|cloudy|rain|snow|fog)
sensor id:s readings:[{t:@date-time v:n}] unit:s calibrated:b
device id:@uuid name:s firmware:~^[0-9]+\\.[0-9]+\\.[0-9]+$~ online:b battery:i[0,100]! address?:@ipv4
host hostname:@hostname ipv4:@ipv4 ipv6?:@ipv6 cpus:i[1,1024] memory_gb:n[0,100000] tags?:%s
container image:s tag?:s ports:[{host:i[1,65535] container:i[1,65535]}] env:%s restart:(no|always|on-failure)
certificate subject:s issuer:s not_before:@date-time not_after:@date-time serial:~^[0-9a-f]{2}(:[0-9a-f]{2}){3,19}$~
user_account username:~^[a-z][a-z0-9_]{2,29}$~ email:@email created:@date-time roles:[(user|moderator|admin)]{1,3} last_login:@date-time!
session id:@uuid user:s expires:@date-time scopes:[s] ip?:@ipv4
api_key name:s prefix:~^sk-[a-z0-9]{4}$~ scopes:[(read|write)] expires:@date!
webhook url:@uri events:[s]{1,20} secret:s{16,64} active:b
commit sha:~^[0-9a-f]{40}$~ author:{name:s email:@email} message:s parents:[~^[0-9a-f]{40}$~]
pull_request number:i[1,1000000] title:s state:(open|closed|merged) additions:i[0,10000000] deletions:i[0,10000000] labels:[s]
bug_report title:s steps:[s] expected:s actual:s severity:i[1,4] version?:s
code_review summary:s comments:[{file:s line:i[1,1000000] severity:(nit|minor|major|blocker) text:s suggestion?:s!}] approve:b
test_result suite:s passed:i[0,100000] failed:i[0,100000] failures:[{name:s message:s}] seconds:n[0,100000]
sentiment label:(positive|neutral|negative) score:n[0,1] evidence?:[s]
entities people:[s] places:[s] organizations:[s] dates?:[@date]
classification category:(billing|technical|account|other) confidence:n[0,1] reasoning:s
summary title:s key_points:[s]{1,10} length_words?:i[0,10000]
translation source:s target:s text:s alternatives?:[s]
keyword_list keywords:[{term:s weight:n[0,1]}]{1,50}
chain_of_thought steps:[{explanation:s output:s}] final_answer:s
plan goal:s tasks:[{id:i[1,999] title:s depends_on:[i[1,999]] hours:n[0,1000]}]
grade student:s course:s score:n[0,100] letter:(A|B|C|D|F) comments?:s
chess_move piece:(pawn|knight|bishop|rook|queen|king) from:~^[a-h][1-8]$~ to:~^[a-h][1-8]$~ capture?:b promotion?:(queen|rook|bishop|knight)!
character name:s level:i[1,100] class:(warrior|mage|rogue|cleric) stats:{str:i[1,30] dex:i[1,30] int:i[1,30]} inventory:[{item:s count:i[1,999]}]
quest title:s giver?:s objectives:[{text:s done:b}]{1,20} reward:{gold:i[0,1000000] items?:[s]}
color name?:s hex:~^#[0-9a-f]{6}$~ rgb:[i[0,255]]{3,3}
money amount:n currency:~^[A-Z]{3}$~
measurement value:n unit:(m|cm|mm|kg|g|s) error?:n[0,1000]
time_range from:~^[0-2][0-9]:[0-5][0-9]$~ to:~^[0-2][0-9]:[0-5][0-9]$~ weekdays:[(mon|tue|wed|thu|fri|sat|sun)]{1,7}
license name:s spdx:s url?:@uri! osi:b
citation title:s authors:[s] doi?:~^10\\.[0-9]{4,9}/[-._;()/:A-Za-z0-9]+$~ year:i[1500,2100] venue?:s
"""

CONFIGS = """
logging level:(debug|info|warn|error) format?:(text|json) outputs:[{kind:(file|stdout|syslog) path?:s}]
server host:s port:i[1,65535] tls?:{cert:s key:s min_version?:(1.2|1.3)} workers?:i[1,256] timeouts?:{read_ms:i[0,600000] write_ms:i[0,600000]}
database driver:(postgres|mysql|sqlite) url:s pool?:{min:i[0,100] max:i[1,1000] idle_seconds?:i[0,86400]} migrate?:b
cache backend:(memory|redis) ttl_seconds:i[0,604800] max_entries?:i[1,100000000] redis?:{host:s port:i[1,65535] db?:i[0,15]}
queue name:s durable:b max_length?:i[1,10000000]! dead_letter?:s retry?:{attempts:i[0,100] backoff:(fixed|exponential) base_ms:i[1,60000]}
pipeline name:s stages:[{name:s image:s commands:[s]{1,50} when?:(always|success|failure) env?:%s}]{1,30}
cron_job schedule:s command:s timezone?:s enabled:b notify?:[@email]
editor theme:(light|dark) font:{family:s size:i[6,72]} tab_size:i[1,16] rulers?:[i[1,500]] keymap?:%s
build target:s sources:[s]{1,200} defines?:%s optimize:(none|size|speed) warnings_as_errors?:b
feature_flags flags:[{key:~^[a-z][a-z0-9_.-]*$~ enabled:b percent?:i[0,100] groups?:[s]}]
rate_limit rules:[{path:s method?:(GET|POST|PUT|DELETE) per_minute:i[1,1000000]}] default_per_minute:i[1,1000000]
cors origins:[s] methods:[(GET|POST|PUT|DELETE|OPTIONS)] credentials?:b max_age?:i[0,86400]
auth provider:(oidc|saml|local) oidc?:{issuer:@uri client_id:s scopes:[s]} session_minutes:i[1,43200] mfa:(off|optional|required)
storage kind:(s3|gcs|local) bucket?:s region?:s path?:s encryption?:{enabled:b key_id?:s!}
backup schedule:s keep:{daily:i[0,365] weekly:i[0,52] monthly:i[0,120]} targets:[s]{1,10} compress?:b
model name:s layers:i[1,200] hidden:i[1,65536] heads:i[1,256] vocab:i[1,1000000] rope?:{theta:n[1,100000000] scaling?:n[1,64]} tie_embeddings?:b
training learning_rate:n[0,1] batch_size:i[1,65536] epochs:i[1,1000] optimizer:{name:(adam|adamw|sgd) beta1?:n[0,1] beta2?:n[0,1] weight_decay?:n[0,1]} schedule?:(constant|linear|cosine)
sampling temperature:n[0,2] top_p?:n[0,1] top_k?:i[0,1000] stop?:[s]{0,4} seed?:i!
dashboard title:s rows:[{panels:[{title:s kind:(graph|table|stat) query:s width:i[1,12]}]{1,12}}] refresh_seconds?:i[1,3600]
chart kind:(bar|line|pie|scatter) title?:s x:{label:s values:[s]} series:[{name:s values:[n] color?:~^#[0-9a-f]{6}$~}]
form title:s fields:[{name:s label:s kind:(text|number|date|select) required?:b options?:[s] help?:s}]{1,60} submit?:s
menu title:s items:[{label:s action:s shortcut?:s icon?:s! enabled?:b}]
theme name:s colors:{primary:~^#[0-9a-f]{6}$~ secondary:~^#[0-9a-f]{6}$~ background:~^#[0-9a-f]{6}$~} radius?:n[0,64] dark?:b
firewall default:(allow|deny) rules:[{action:(allow|deny) protocol:(tcp|udp|icmp) port?:i[1,65535] source:s}]
network interfaces:[{name:s mac:~^([0-9a-f]{2}:){5}[0-9a-f]{2}$~ addresses:[@ipv4] mtu?:i[576,9216]}] dns:[@ipv4]{1,4}
package name:~^[a-z][a-z0-9-]*$~ version:~^\\d+\\.\\d+\\.\\d+$~ description?:s dependencies?:%s scripts?:%s license?:s
i18n locale:~^[a-z]{2}(-[A-Z]{2})?$~ messages:%s fallback?:s
robot joints:[{name:s min_rad:n[-7,7] max_rad:n[-7,7] velocity?:n[0,100]}]{1,12} tool?:{name:s mass_kg:n[0,100]}
game_settings difficulty:(easy|normal|hard) audio:{master:i[0,100] music:i[0,100] effects:i[0,100]} controls:%s subtitles:b
smart_home rooms:[{name:s devices:[{id:s kind:(light|switch|sensor|lock) state?:s}]}] scenes?:[{name:s actions:[{device:s set:s}]}]
"""

# Whole schemas, for what the short form cannot say.
WHOLE = {
    "tree": {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
        "value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        "required": ["value", "children"], "additionalProperties": False}}},
    "binary_tree": {"type": "object", "properties": {"key": {"type": "string"},
        "left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["key", "left", "right"]},
    "linked_list": {"type": "object", "properties": {"head": {"$ref": "#/$defs/cell"}}, "required": ["head"],
        "$defs": {"cell": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {
            "item": {"type": "string"}, "next": {"$ref": "#/$defs/cell"}}, "required": ["item", "next"]}]}}},
    "ui_component": {"type": "object", "properties": {
        "type": {"type": "string", "enum": ["div", "button", "header", "section", "field", "form"]},
        "label": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}},
        "attributes": {"type": "array", "items": {"type": "object", "properties": {
            "name": {"type": "string"}, "value": {"type": "string"}}, "required": ["name", "value"],
            "additionalProperties": False}}},
        "required": ["type", "label", "children", "attributes"], "additionalProperties": False},
    "expression": {"$ref": "#/$defs/expr", "$defs": {
        "expr": {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/binary"}, {"$ref": "#/$defs/variable"}]},
        "binary": {"type": "object", "properties": {"op": {"enum": ["+", "-", "*", "/"]},
            "left": {"$ref": "#/$defs/expr"}, "right": {"$ref": "#/$defs/expr"}}, "required": ["op", "left", "right"]},
        "variable": {"type": "object", "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}},
            "required": ["name"]}}},
    "file_system": {"type": "object", "properties": {"name": {"type": "string"}, "kind": {"const": "directory"},
        "entries": {"type": "array", "items": {"oneOf": [{"$ref": "#"}, {"$ref": "#/$defs/file"}]}}},
        "required": ["name", "kind", "entries"],
        "$defs": {"file": {"type": "object", "properties": {"name": {"type": "string"}, "kind": {"const": "file"},
            "size": {"type": "integer", "minimum": 0}}, "required": ["name", "kind", "size"]}}},
    "comment_thread": {"type": "object", "properties": {"author": {"type": "string"}, "text": {"type": "string"},
        "votes": {"type": "integer"}, "replies": {"type": "array", "items": {"$ref": "#"}, "maxItems": 5}},
        "required": ["author", "text"]},
    "org_chart": {"type": "object", "properties": {"name": {"type": "string"}, "title": {"type": "string"},
        "reports": {"type": "array", "items": {"$ref": "#"}}}, "required": ["name"]},
    "json_patch": {"type": "array", "items": {"oneOf": [
        {"type": "object", "properties": {"op": {"enum": ["add", "replace", "test"]}, "path": {"type": "string"},
            "value": True}, "required": ["op", "path", "value"], "additionalProperties": False},
        {"type": "object", "properties": {"op": {"const": "remove"}, "path": {"type": "string"}},
            "required": ["op", "path"], "additionalProperties": False},
        {"type": "object", "properties": {"op": {"enum": ["move", "copy"]}, "from": {"type": "string"},
            "path": {"type": "string"}}, "required": ["op", "from", "path"], "additionalProperties": False}]}},
    "geo_point": {"type": "object", "properties": {"type": {"const": "Point"}, "coordinates": {"type": "array",
        "prefixItems": [{"type": "number", "minimum": -180, "maximum": 180}, {"type": "number", "minimum": -90,
        "maximum": 90}], "items": False, "minItems": 2}}, "required": ["type", "coordinates"]},
    "geo_line": {"type": "object", "properties": {"type": {"const": "LineString"}, "coordinates": {"type": "array",
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 3}, "minItems": 2}},
        "required": ["type", "coordinates"]},
    "geo_polygon": {"type": "object", "properties": {"type": {"const": "Polygon"}, "coordinates": {"type": "array",
        "items": {"type": "array", "minItems": 4, "items": {"type": "array", "items": {"type": "number"},
        "minItems": 2, "maxItems": 2}}}}, "required": ["type", "coordinates"]},
    "geo_feature": {"type": "object", "properties": {"type": {"const": "Feature"}, "geometry": {"anyOf": [
        {"type": "null"}, {"type": "object", "properties": {"type": {"const": "Point"}, "coordinates": {"type": "array",
        "items": {"type": "number"}, "minItems": 2, "maxItems": 3}}, "required": ["type", "coordinates"]},
        {"type": "object", "properties": {"type": {"const": "LineString"}, "coordinates": {"type": "array", "items": {
        "type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 3}, "minItems": 2}},
        "required": ["type", "coordinates"]}]}, "properties": {"type": ["object", "null"]}},
        "required": ["type", "geometry", "properties"]},
    "shape": {"oneOf": [
        {"type": "object", "properties": {"kind": {"const": "circle"}, "radius": {"type": "number",
            "exclusiveMinimum": 0}}, "required": ["kind", "radius"]},
        {"type": "object", "properties": {"kind": {"const": "rectangle"}, "width": {"type": "number",
            "exclusiveMinimum": 0}, "height": {"type": "number", "exclusiveMinimum": 0}},
            "required": ["kind", "width", "height"]}]},
    "payment_method": {"type": "object", "properties": {"amount": {"type": "number", "multipleOf": 0.01, "minimum": 0},
        "method": {"oneOf": [
            {"type": "object", "properties": {"type": {"const": "card"}, "number": {"type": "string",
                "pattern": "^[0-9]{16}$"}, "cvv": {"type": "string", "pattern": "^[0-9]{3,4}$"}},
                "required": ["type", "number", "cvv"], "additionalProperties": False},
            {"type": "object", "properties": {"type": {"const": "iban"}, "iban": {"type": "string",
                "pattern": "^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$"}}, "required": ["type", "iban"],
                "additionalProperties": False}]}}, "required": ["amount", "method"]},
    "event_union": {"type": "array", "minItems": 1, "items": {"anyOf": [
        {"type": "object", "properties": {"event": {"const": "login"}, "user": {"type": "string"},
            "at": {"type": "string", "format": "date-time"}}, "required": ["event", "user", "at"]},
        {"type": "object", "properties": {"event": {"const": "purchase"}, "item": {"type": "string"},
            "price": {"type": "number", "minimum": 0}}, "required": ["event", "item", "price"]},
        {"type": "object", "properties": {"event": {"const": "logout"}}, "required": ["event"]}]}},
    "inherited": {"allOf": [{"$ref": "#/$defs/base"}, {"type": "object", "properties": {"color": {"type": "string"}},
        "required": ["color"]}], "$defs": {"base": {"type": "object", "properties": {"id": {"type": "integer",
        "minimum": 1}, "name": {"type": "string"}}, "required": ["id"]}}},
    "timestamps": {"allOf": [{"type": "object", "properties": {"created": {"type": "string", "format": "date-time"}},
        "required": ["created"]}, {"type": "object", "properties": {"updated": {"type": ["string", "null"],
        "format": "date-time"}}}]},
    "either_contact": {"type": "object", "properties": {"email": {"type": "string", "format": "email"},
        "phone": {"type": "string", "pattern": "^\\+[0-9]{6,15}$"}},
        "anyOf": [{"required": ["email"]}, {"required": ["phone"]}]},
    "open_object": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"],
        "additionalProperties": {"type": ["string", "number", "boolean"]}},
    "string_map": {"type": "object", "additionalProperties": {"type": "string"}},
    "any_map": {"type": "object", "additionalProperties": True},
    "nested_map": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {
        "type": "integer", "minimum": 0}}},
    "tool_call": {"type": "object", "properties": {"name": {"enum": ["get_weather", "search", "finish"]},
        "arguments": {"type": "object"}}, "required": ["name", "arguments"], "additionalProperties": False},
    "tool_choice": {"anyOf": [
        {"type": "object", "properties": {"name": {"const": "get_weather"}, "arguments": {"type": "object",
            "properties": {"city": {"type": "string"}}, "required": ["city"]}}, "required": ["name", "arguments"]},
        {"type": "object", "properties": {"name": {"const": "add"}, "arguments": {"type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}},
            "required": ["name", "arguments"]}]},
    "matrix": {"type": "array", "minItems": 1, "maxItems": 8, "items": {"type": "array", "minItems": 1, "maxItems": 8,
        "items": {"type": "number"}}},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}],
        "items": False, "minItems": 3},
    "tuple_and_rest": {"type": "array", "prefixItems": [{"enum": ["sum", "max"]}], "items": {"type": "number"},
        "minItems": 2},
    "scalar_union": {"type": ["string", "integer", "boolean", "null"]},
    "small_enum": {"enum": ["yes", "no", "maybe", None, 1, 2.5]},
    "large_enum": {"type": "object", "properties": {"country": {"enum": [
        "Argentina", "Australia", "Austria", "Belgium", "Brazil", "Canada", "Chile", "China", "Colombia", "Croatia",
        "Czechia", "Denmark", "Egypt", "Estonia", "Finland", "France", "Germany", "Ghana", "Greece", "Hungary",
        "Iceland", "India", "Indonesia", "Ireland", "Israel", "Italy", "Japan", "Kenya", "Latvia", "Lithuania",
        "Luxembourg", "Malaysia", "Mexico", "Morocco", "Nepal", "Netherlands", "New Zealand", "Nigeria", "Norway",
        "Pakistan", "Peru", "Philippines", "Poland", "Portugal", "Romania", "Serbia", "Singapore", "Slovakia",
        "Slovenia", "South Africa", "South Korea", "Spain", "Sweden", "Switzerland", "Thailand", "Turkey",
        "Ukraine", "United Kingdom", "United States", "Uruguay", "Vietnam"]}}, "required": ["country"]},
    "multiples": {"type": "object", "properties": {"dozen": {"type": "integer", "multipleOf": 12, "minimum": 0},
        "even": {"type": "integer", "multipleOf": 2}, "percent": {"type": "number", "multipleOf": 0.1, "minimum": 0,
        "maximum": 100}}, "required": ["dozen", "even", "percent"]},
    "bounds": {"type": "object", "properties": {"a": {"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": 17},
        "b": {"type": "number", "minimum": -0.5, "exclusiveMaximum": 12.75}, "c": {"type": "number", "maximum": -3},
        "d": {"type": "integer", "minimum": 9007199254740991}}, "required": ["a", "b", "c", "d"]},
    "lengths": {"type": "object", "properties": {"code": {"type": "string", "minLength": 4, "maxLength": 4},
        "short": {"type": "string", "maxLength": 10}, "long": {"type": "string", "minLength": 20, "maxLength": 2000}},
        "required": ["code", "short"]},
    "formats": {"type": "object", "properties": {f: {"type": "string", "format": f} for f in
        ["date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "uri", "hostname", "duration"]},
        "required": ["date", "time", "uuid"]},
    "odd_names": {"type": "object", "properties": {"with space": {"type": "integer"}, "quote\"d": {"type": "integer"},
        "slash/tilde~": {"type": "integer"}, "\u00fcml\u00e4ut": {"type": "integer"}, "": {"type": "integer"}},
        "required": ["with space"], "additionalProperties": {"type": "boolean"}},
    "all_optional": {"type": "object", "properties": {c: {"type": "integer"} for c in "abcdefghijklmnop"}},
    "deep": None,
    "wide": {"type": "object", "properties": {"field_%02d" % i: {"type": ["string", "integer", "boolean"][i % 3]}
        for i in range(40)}, "required": ["field_%02d" % i for i in range(0, 40, 2)], "additionalProperties": False},
    "described": {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/x.json",
        "title": "A thing", "description": "With annotations", "type": "object", "properties": {"x": {
        "type": "integer", "title": "X", "default": 3, "examples": [1, 2], "deprecated": True, "readOnly": True,
        "$comment": "none"}}, "required": ["x"]},
}
deep = {"type": "string"}
for level in range(12):
    deep = {"type": "object", "properties": {"level_%d" % level: deep}, "required": ["level_%d" % level]}
WHOLE["deep"] = deep
